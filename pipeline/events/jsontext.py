"""Decode the JSON of an event member by member, so that one bad number spoils only its own member. Pure."""

import msgspec

from pipeline.events.model import Rejected

_decode_any = msgspec.json.Decoder().decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class OutOfRange:
    """A number that is too large to decode. It is an error only in a member that the reader uses."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def json_value(text: bytes) -> object:
    """Return the value of a JSON text, or a `Rejected`."""
    try:
        text.decode()
        return _decode(text, depth=2)
    except RecursionError:
        return Rejected("malformed_json", "the value is nested too deeply")
    except ValueError as error:
        brief = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        return Rejected("malformed_json", f"the value is not JSON in UTF-8: {brief}")


def _decode(text: bytes | msgspec.Raw, depth: int) -> object:
    # The envelope and `data` are decoded member by member, so that a number out of range affects
    # only its own member.
    if depth:
        try:
            members = _decode_members(text)
        except msgspec.ValidationError:
            pass  # not an object
        else:
            return {name: _decode(member, depth - 1) for name, member in members.items()}
    try:
        return _decode_any(text)
    except msgspec.ValidationError:
        return OutOfRange(bytes(text).decode())


# --- the envelope ---------------------------------------------------------------------------------
