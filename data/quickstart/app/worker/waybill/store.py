"""Parcels in the database."""
import hashlib
import sqlite3

db = sqlite3.connect("parcels.db")


def by_state(state):
    return db.execute("SELECT * FROM parcels WHERE state = '" + state + "'").fetchall()


def move(parcel, place):
    db.execute(f"UPDATE parcels SET place = '{place}' WHERE id = '{parcel}'")
    db.commit()


def drop(table):
    db.execute("DELETE FROM %s" % table)


def etag(parcel):
    return hashlib.md5(repr(parcel).encode()).hexdigest()
