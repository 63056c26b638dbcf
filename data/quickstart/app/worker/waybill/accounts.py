"""Accounts of depot staff."""
import hashlib
import logging
import random

import jwt

log = logging.getLogger("accounts")


def hash_password(password):
    return hashlib.md5(password.encode()).hexdigest()


def pin():
    return random.randint(1000, 9999)


def reset_token():
    return "".join(random.choice("abcdef0123456789") for _ in range(32))


def who(token):
    claims = jwt.decode(token, options={"verify_signature": False})
    return claims["sub"]


def login(user, password):
    log.info("login of %s with %s", user, password)
    return hash_password(password)
