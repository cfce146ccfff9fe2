# A service with a helper that prepares its directory and one that runs beside it. It ends on SIGINT or SIGTERM.
#
#   holdfast-driver agent run docs/examples/service.nomad.hcl
#
# The same file runs in Nomad: nomad job run docs/examples/service.nomad.hcl
job "service" {
  type        = "service"
  datacenters = ["*"]

  group "service" {
    count = 1

    # At most two restarts in half a minute; then the job has failed.
    restart {
      attempts = 2
      interval = "30s"
      delay    = "2s"
      mode     = "fail"
    }

    task "prepare" {
      driver = "raw_exec"

      lifecycle {
        hook = "prestart"
      }

      config {
        command = "/bin/sh"
        args    = ["-c", "echo \"made by $NOMAD_TASK_NAME\" > \"$NOMAD_ALLOC_DIR/data/note\""]
      }
    }

    task "serve" {
      driver       = "raw_exec"
      leader       = true
      kill_signal  = "SIGTERM"
      kill_timeout = "10s"

      config {
        command = "/bin/sh"
        args    = ["-c", <<-EOF
          trap 'echo "closing"; exit 0' TERM
          cat "$NOTE"
          while true; do
            echo "serving; again in $PAUSE seconds" >&2
            sleep "$PAUSE" &
            wait $!
          done
          EOF
        ]
      }

      env {
        NOTE  = "${NOMAD_ALLOC_DIR}/data/note"
        PAUSE = 5
      }

      resources {
        cpu        = 200
        memory     = 32
        memory_max = 64
      }
    }

    task "watch" {
      driver = "raw_exec"

      lifecycle {
        hook    = "poststart"
        sidecar = true
      }

      config {
        command = "/bin/sh"
        args    = ["-c", "while true; do echo \"watching ${NOMAD_ALLOC_NAME}\"; sleep 10; done"]
      }

      resources {
        cpu    = 50
        memory = 16
      }
    }
  }
}
