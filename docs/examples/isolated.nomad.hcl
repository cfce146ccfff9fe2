# A task that sees a read-only view of the host, and its own folders. `holdfast-driver agent run` runs it too, as root.
job "isolated" {
  type = "batch"

  group "look" {
    task "around" {
      driver = "holdfast"

      config {
        command  = "sh"
        args     = ["-c", "id; hostname; ls /; touch /usr/x || true; echo kept > /local/file; ps ax || true"]
        hostname = "inside"
        tmpfs    = ["/cache:size=16m"]
      }
    }
  }
}
