"""Talks to carriers."""
import logging

import requests

log = logging.getLogger(__name__)
CARRIER_PASSWORD = "example-carrier-password"


def state(parcel):
    answer = requests.get("https://api.carrier.example/parcels/" + parcel, verify=False)
    return answer.json()


def book(parcel, token):
    log.info("booking %s with %s", parcel, token)
    return requests.post("https://api.carrier.example/bookings", json={"parcel": parcel, "token": token})


def cancel(parcel, token):
    return requests.delete("https://api.carrier.example/bookings/" + parcel, verify=False, timeout=10)
