# A task whose command does not exist.
job "broken" {
  type = "batch"

  group "group" {
    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "main" {
      driver = "raw_exec"

      config {
        command = "/no/such/tool"
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
