resource "aws_db_instance" "orders" {
  engine              = "postgres"
  instance_class      = "db.t3.small"
  username            = "orders"
  publicly_accessible = true
  storage_encrypted   = false
}

resource "aws_db_instance" "billing" {
  engine              = "postgres"
  instance_class      = "db.t3.small"
  username            = "billing"
  publicly_accessible = true
}
