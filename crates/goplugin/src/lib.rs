//! The go-plugin protocol, both sides; it knows nothing of Nomad.
