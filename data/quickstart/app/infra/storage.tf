resource "aws_s3_bucket" "labels" {
  bucket = "waybill-labels"
  acl    = "public-read"
}

resource "aws_s3_bucket" "invoices" {
  bucket = "waybill-invoices"
  acl    = "public-read-write"
}

resource "aws_ebs_volume" "depot" {
  availability_zone = "eu-example-1a"
  size              = 40
}
