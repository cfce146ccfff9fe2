# The same service with a view of the host as its root: a template, a host volume, a port.
job "holdfast" {
  type = "service"

  group "group" {
    network {
      port "main" {}
    }

    volume "shared" {
      type   = "host"
      source = "shared"
    }

    restart {
      attempts = 0
      mode     = "fail"
    }

    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "main" {
      driver       = "holdfast"
      kill_signal  = "SIGTERM"
      kill_timeout = "20s"

      config {
        command = "/bin/sh"
        args = ["-c", <<-SCRIPT
          trap 'echo got usr1' USR1
          trap 'echo stopping; exit 0' TERM
          echo "pid $$"
          echo "uid $(id -u)"
          cat /local/greeting
          cat /srv/shared/kept
          echo "$NOMAD_ALLOC_ID" > /srv/shared/holdfast
          echo "trouble of $NOMAD_TASK_NAME" >&2
          while :; do sleep 0.1; done
        SCRIPT
        ]
      }

      template {
        data        = "hello from {{ env \"NOMAD_TASK_NAME\" }}\n"
        destination = "local/greeting"
      }

      volume_mount {
        volume      = "shared"
        destination = "/srv/shared"
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
