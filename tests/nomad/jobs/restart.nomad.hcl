# A task that fails twice and is restarted in place, then goes on.
job "restart" {
  type = "batch"

  group "group" {
    restart {
      attempts = 3
      delay    = "1s"
      mode     = "fail"
    }

    task "main" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "echo run >> $NOMAD_TASK_DIR/runs; echo run $(wc -l < $NOMAD_TASK_DIR/runs); [ $(wc -l < $NOMAD_TASK_DIR/runs) -ge 3 ]"]
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
