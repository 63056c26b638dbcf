"""Settings of a depot."""
import yaml

DATABASE_PASSWORD = "example-depot-password"
SECRET_TOKEN = "example-depot-token"


def read(path):
    with open(path) as file:
        return yaml.load(file, Loader=yaml.Loader)


def merge(text, base):
    base.update(yaml.load(text, Loader=yaml.UnsafeLoader))
    return base
