# A batch task that says hello, counts for a while, and ends well.
#
#   holdfast-driver agent run --stats docs/examples/hello.nomad.hcl
#
# The same file runs in Nomad: nomad job run docs/examples/hello.nomad.hcl
job "hello" {
  type        = "batch"
  datacenters = ["*"]

  group "hello" {
    task "greet" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["-c", <<-EOF
          echo "Hello from ${NOMAD_TASK_NAME}, process $$, in ${NOMAD_TASK_DIR}"
          count=0
          while [ "$count" -lt 12 ]; do
            count=$((count + 1))
            echo "$GREETING, for the $count. time"
            sleep 1
          done
          echo "That was all."
          EOF
        ]
      }

      env {
        GREETING = "still here"
      }

      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
