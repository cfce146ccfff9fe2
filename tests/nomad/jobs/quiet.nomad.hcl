# A task whose job wants no logs.
job "quiet" {
  type = "batch"

  group "group" {
    task "main" {
      driver = "raw_exec"

      config {
        command = "/bin/echo"
        args    = ["into the void"]
      }

      logs {
        disabled = true
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
