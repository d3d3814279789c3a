"""One table maps errors outwards, and what travels comes back as it was."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.base import errors
from actors.base.errors import CARRIED_BYTES, MAPPINGS, RussetError, decode, encode, mapping_of, shortened

KINDS = sorted(MAPPINGS, key=lambda kind: kind.__name__)


def test_every_error_class_is_mapped_or_inherits_its_mapping():
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RussetError)]
    assert set(classes) - set(MAPPINGS) == {RussetError, errors.Unreachable}
    assert mapping_of(errors.Unreachable("gone")) == MAPPINGS[errors.Unavailable]
    assert mapping_of(ValueError("not ours")) == MAPPINGS[errors.Internal]


@pytest.mark.parametrize("kind", KINDS)
def test_the_tree_in_the_docstring_states_the_http_status(kind):
    line = next(line for line in (errors.__doc__ or "").splitlines() if f" {kind.__name__} " in line)
    assert f" {MAPPINGS[kind].http} " in line


def test_grpc_statuses_tell_the_classes_apart():
    statuses = [mapping.grpc for mapping in MAPPINGS.values()]
    assert len(set(statuses)) == len(statuses)


@given(
    st.sampled_from(KINDS),
    st.text(max_size=200),
    st.none() | st.text(max_size=20),
    st.none() | st.floats(min_value=0, max_value=1e6),
)
def test_an_error_survives_the_way(kind, message, param, retry_after_s):
    error = kind(message, param=param, retry_after_s=retry_after_s)
    arrived = decode(MAPPINGS[kind].grpc, "", encode(error))
    assert type(arrived) is kind
    assert (arrived.message, arrived.param, arrived.retry_after_s) == (message, param, retry_after_s)


def test_unreachable_is_unavailable_to_the_next_caller():
    assert type(decode(grpc.StatusCode.UNAVAILABLE, "", encode(errors.Unreachable("gone")))) is errors.Unavailable


@pytest.mark.parametrize(
    "carried", [b"", b"[]", b"{}", b"\xff", b'{"class": "Nothing"}', b'{"class": "Internal", "message": 1}']
)
def test_details_that_cannot_be_read_are_internal(carried):
    assert type(decode(grpc.StatusCode.NOT_FOUND, "gone", carried)) is errors.Internal


@given(st.text())
def test_shortened_fits_and_keeps_what_fits(text):
    text = text.encode(errors="replace").decode()
    for long in (text, text * 400):
        cut = shortened(long)
        assert len(cut.encode()) <= CARRIED_BYTES
        assert cut == long or (cut.endswith("...") and long.startswith(cut[:-3]))
