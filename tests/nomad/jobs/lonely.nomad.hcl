# A task that wants no second executor, and is stopped when neither agent nor driver is there for three seconds.
job "lonely" {
  type = "service"

  group "group" {
    restart {
      attempts = 1
      interval = "1h"
      delay    = "1s"
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
        args    = ["-c", "trap 'echo alone; exit 9' INT; echo \"pid $$\"; while :; do sleep 0.1; done"]

        on_executor_loss = "kill"
        on_agent_exit    = "stop_after=3s"
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
