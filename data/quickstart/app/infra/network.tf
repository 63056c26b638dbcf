resource "aws_security_group" "edge" {
  name        = "edge"
  description = "everything from everywhere"

  ingress {
    from_port   = 22
    to_port     = 22
    protocol    = "tcp"
    cidr_blocks = ["0.0.0.0/0"]
  }

  ingress {
    from_port   = 3389
    to_port     = 3389
    protocol    = "tcp"
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_lb_listener" "web" {
  load_balancer_arn = "arn:example:web"
  port              = 80
  protocol          = "HTTP"
}
