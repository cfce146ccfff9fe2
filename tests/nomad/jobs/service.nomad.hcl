# A service that tells what happens to it.
job "service" {
  type = "service"

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
      driver       = "raw_exec"
      kill_signal  = "SIGTERM"
      kill_timeout = "20s"

      config {
        command = "/bin/sh"
        args = ["-c", <<-SCRIPT
          trap 'echo got usr1' USR1
          trap 'echo stopping; exit 0' TERM
          echo "pid $$"
          echo "trouble of $NOMAD_TASK_NAME" >&2
          while :; do sleep 0.1; done
        SCRIPT
        ]
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
