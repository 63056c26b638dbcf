"""Calls back to customers."""
import logging

import requests
from flask import request

log = logging.getLogger("hooks")


def preview():
    return requests.get(request.args["url"], timeout=5).text


def register(secret):
    log.warning("hook of %s registered, %s", request.json["url"], secret)
    return requests.post(request.json["url"], json={"hello": 1}).status_code


def avatar():
    return requests.get(request.args["avatar"]).content
