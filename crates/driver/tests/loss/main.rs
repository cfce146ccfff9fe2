//! Drivers, executors and agents that are lost, in every combination: who goes on, who may end a task, and what is told of it.

mod attended;
mod host;
mod lost;
mod raced;
mod replaced;
mod unreachable;
