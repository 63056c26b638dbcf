"""A cache in files."""
import hashlib
import pickle
import tempfile


FOLDER = "/tmp/waybill-cache"


def key(name):
    return hashlib.sha1(name.encode()).hexdigest()


def load(path):
    with open(path, "rb") as file:
        return pickle.load(file)


def loads(blob):
    return pickle.loads(blob)


def scratch():
    return tempfile.mktemp(suffix=".parcel")
