"""What the error type does with the words it is given."""

from __future__ import annotations

import copy

from coin_ray.errors import UserError, first_line


def test_passwords_in_addresses_are_not_said() -> None:
    address = "https://anna:s3cret@head.example:8265/api"
    error = UserError(f"{address} is away", where=address, found=f"no {address}", do=address)
    for one in (error, copy.copy(error)):
        assert "s3cret" not in f"{one}{vars(one)}" and "anna" not in str(one)
        assert one.where == "https://head.example:8265/api"
    assert "hidden" not in str(UserError("away", found="postgresql://u:p@hidden@host/db"))
    assert UserError("no such file", where="a//tile@40x/b.png").where == "a//tile@40x/b.png"
    assert first_line(OSError(f"GET {address} failed")) == (
        "GET https://head.example:8265/api failed"
    )


def test_an_error_without_words_is_said_by_its_kind() -> None:
    assert first_line(ValueError()) == "ValueError" and first_line(OSError("\n a \n b")) == "a"
