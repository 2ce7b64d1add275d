"""The messages as pure functions: what is written is what is read, and nothing else gets out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.admin import rpc
from protocol.errors import KINDS, Fault, PeerFault

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(), st.dictionaries(st.text(), values, max_size=3), st.integers(0, 2**31))
def test_a_request_is_one_line_and_goes_round(
    method: str, params: dict[str, Any], id_: int
) -> None:
    line = rpc.request_line(method, params, id_)
    assert line.index(b"\n") == len(line) - 1
    assert rpc.parse_request(line) == rpc.Request(method, params, id_)


@given(st.integers(0, 2**31), values)
def test_results_and_updates_go_round(id_: int, value: Any) -> None:
    assert rpc.parse_answer(rpc.result_line(id_, value), id_) == rpc.Result(value)
    assert rpc.parse_answer(rpc.update_line("m", id_, value), id_) == rpc.Update(value)


@given(st.sampled_from(KINDS), st.integers(0, 9) | st.none())
def test_a_fault_goes_round_with_the_exit_code_of_our_table(kind: Any, id_: int | None) -> None:
    fault = Fault(kind.code, "what happened", "what to do", kind.exit_code)
    with pytest.raises(PeerFault) as caught:
        rpc.parse_answer(rpc.error_line(id_, fault), id_ or 0)
    assert caught.value.as_dict() == fault.as_dict()
    assert caught.value.exit_code == fault.exit_code


@given(st.binary(max_size=80) | values.map(lambda value: rpc.result_line(1, value)))
def test_only_documented_errors_come_out_of_any_line(line: bytes) -> None:
    try:
        rpc.parse_request(line)
    except rpc.RequestError as error:
        assert error.number in (-32700, -32600, -32602)
    try:
        rpc.parse_answer(line, 1)
    except PeerFault as fault:
        assert fault.code == "RPL-1103"
