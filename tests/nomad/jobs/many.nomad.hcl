# Many tasks that wait at once.
variable "count" {
  type    = number
  default = 300
}

job "many" {
  type = "service"

  update {
    max_parallel = 0
  }

  group "group" {
    count = var.count

    ephemeral_disk {
      size = 10
    }

    task "main" {
      driver = "raw_exec"

      config {
        command = "/bin/sleep"
        args    = ["100000"]
      }

      logs {
        max_files     = 1
        max_file_size = 1
      }

      resources {
        cpu    = 1
        memory = 10
      }
    }
  }
}
