# A batch task that ends with code 7 as soon as the file $NOMAD_TASK_DIR/go exists.
job "batch" {
  type = "batch"

  group "group" {
    restart {
      attempts = 0
      mode     = "fail"
    }

    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "main" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "echo waiting; until [ -e $NOMAD_TASK_DIR/go ]; do sleep 0.1; done; echo going; exit 7"]
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
