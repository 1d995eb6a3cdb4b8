"""Every format's traps, and every bad file's sentence; each row is a request, rejected, or an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servecast.compiler.errors import UserError
from servecast.simulator.traffic.trace_formats import FORMATS
from servecast.simulator.traffic.traces import TraceOptions, read_trace, write_trace
from servecast.simulator.traffic.workload import Workload

OURS = "arrival_s,prompt_tokens,output_tokens\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"


def read(tmp_path: Path, text: str | bytes, options: TraceOptions | None = None) -> Workload:
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_trace(path, options)


def rejected(workload: Workload) -> list[tuple[int, str]]:
    assert workload.origin is not None
    return [(row.line, row.reason) for row in workload.origin.rejected]


def lines(workload: Workload) -> list[int]:
    assert workload.origin is not None
    return [int(line) for line in workload.origin.line]


def test_our_own_csv(tmp_path: Path) -> None:
    workload = read(tmp_path, OURS + "1.5,10,20\n1.5,30,40\n4,50,60\n")
    assert workload.arrival_s.tolist() == [0, 0, 2.5]
    assert workload.prompt_tokens.tolist() == [10, 30, 50]
    assert workload.output_tokens.tolist() == [20, 40, 60]
    assert lines(workload) == [2, 3, 4]


def test_columns_are_found_by_name_in_any_order_beside_others(tmp_path: Path) -> None:
    workload = read(tmp_path, 'output_tokens,user, arrival_s,prompt_tokens\n2,"a, b",0,1\n')
    assert (workload.prompt_tokens.tolist(), workload.output_tokens.tolist()) == ([1], [2])


def test_azure_2023_has_seven_digits_crlf_and_no_final_newline(tmp_path: Path) -> None:
    rows = "2023-11-16 18:15:46.6805900,374,44\r\n2023-11-16 18:15:50.9951690,396,109"
    workload = read(tmp_path, AZURE + rows)
    assert workload.arrival_s.tolist() == [0, 4.314579]
    assert (workload.output_tokens.tolist(), lines(workload)) == ([44, 109], [2, 3])


def test_azure_2024_has_an_offset_and_rows_without_a_fraction(tmp_path: Path) -> None:
    rows = "2024-05-10 00:00:00.500000+00:00,1,1\n2024-05-10 00:00:01+00:00,1,1\n"
    assert read(tmp_path, AZURE + rows).arrival_s.tolist() == [0, 0.5]


def test_azure_times_with_and_without_an_offset_do_not_mix(tmp_path: Path) -> None:
    rows = "2024-05-10 00:00:00+00:00,1,1\n2024-05-10 00:00:01,1,1\n"
    with pytest.raises(UserError, match=r"t.csv:3: TIMESTAMP .*with and without a UTC offset"):
        read(tmp_path, AZURE + rows)


def test_requests_with_images_are_not_taken_for_text(tmp_path: Path) -> None:
    header = "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n"
    rows = "2024-10-15 00:00:00,0,5,6\n2024-10-15 00:00:01,3,5,6\n"
    workload = read(tmp_path, header + rows)
    assert lines(workload) == [2]
    assert rejected(workload) == [(3, "has 3 images; only text is simulated")]


def test_vidur_with_arrivals_counts_seconds(tmp_path: Path) -> None:
    header = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
    workload = read(tmp_path, header + "0.0,374,44\n4.314579,396,109\n")
    assert workload.arrival_s.tolist() == [0, 4.314579]


def test_lengths_alone_need_a_rate_and_get_poisson_arrivals(tmp_path: Path) -> None:
    text = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n" + "7,2,9,3.5\n" * 50
    with pytest.raises(UserError, match=r"t.csv: has lengths but no arrival times; give --rate"):
        read(tmp_path, text)
    first, again, other = (
        read(tmp_path, text, TraceOptions(rate_per_s=5, seed=seed)) for seed in (1, 1, 2)
    )
    assert first.rate_per_s == pytest.approx(5)
    assert first.arrival_s.tolist() == again.arrival_s.tolist()
    assert first.arrival_s.tolist() != other.arrival_s.tolist()


def test_burstgpt_columns_are_found_by_name_and_failures_are_counted(tmp_path: Path) -> None:
    header = (
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,"
        "Log Type\n"
    )
    rows = "19440110.0,ab-c,43,GPT-4,906,446,1352,Conversation log\n19440111.5,,1,GPT-4,9,0,9,API log\n"
    workload = read(tmp_path, header + rows)
    assert workload.prompt_tokens.tolist() == [906]
    reason = "Response tokens is 0: the request failed or was cut off"
    assert rejected(workload) == [(3, reason)]


def test_mooncake_counts_milliseconds_and_names_blocks_of_512_tokens(tmp_path: Path) -> None:
    text = (
        '{"timestamp": 1000, "input_length": 513, "output_length": 5, "hash_ids": [0, 1]}\n\n'
        '{"timestamp": 3500, "input_length": 512, "output_length": 6, "hash_ids": [0]}'
    )
    workload = read(tmp_path, text)
    assert workload.arrival_s.tolist() == [0, 2.5]
    assert lines(workload) == [1, 3]
    assert workload.prefix is not None
    assert workload.prefix.block_tokens == 512
    assert (workload.prefix.offsets.tolist(), workload.prefix.ids.tolist()) == (
        [0, 2, 3],
        [0, 1, 0],
    )


def test_bailian_has_mooncakes_fields_but_seconds_and_blocks_of_16(tmp_path: Path) -> None:
    row = (
        '{"chat_id": 1, "parent_chat_id": -1, "timestamp": %s, "input_length": 17, '
        '"output_length": 5, "type": "text", "turn": 1, "hash_ids": [4, 5]}\n'
    )
    workload = read(tmp_path, row % "61.25" + row % "63.5")
    assert workload.arrival_s.tolist() == [0, 2.25]
    assert workload.prefix is not None
    assert workload.prefix.block_tokens == 16


def test_a_unit_that_the_fields_do_not_tell_must_be_named(tmp_path: Path) -> None:
    text = '{"timestamp": 0, "input_length": 1, "output_length": 1}\n' * 2
    message = r"t.csv:1: hash_ids is missing for a mooncake trace; .* say so with --trace-format"
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)
    text = text.replace("0", "2", 1).replace("0", "4", 1)
    assert read(tmp_path, text, TraceOptions(format="mooncake")).span_s == 0.002
    assert read(tmp_path, text, TraceOptions(format="bailian")).span_s == 2


def test_block_ids_that_do_not_cover_the_prompt_are_refused(tmp_path: Path) -> None:
    text = '{"timestamp": 0, "input_length": 513, "output_length": 5, "hash_ids": [0]}'
    with pytest.raises(UserError, match="names 1 blocks, but 513 tokens are 2 blocks of 512"):
        read(tmp_path, text)


def test_every_row_is_a_request_or_rejected_with_its_line_and_reason(tmp_path: Path) -> None:
    workload = read(tmp_path, OURS + "0,0,5\n1,5,0\n\n2,5,5\n3,5,5\n")
    assert lines(workload) == [5, 6]
    assert workload.arrival_s.tolist() == [0, 1]
    assert rejected(workload) == [
        (2, "prompt_tokens is 0: there is nothing to prefill"),
        (3, "output_tokens is 0: the request failed or was cut off"),
    ]


BAD_ROWS = [
    ("0,5,-5", "t.csv:3: output_tokens -5 is negative; a length is 0 tokens or more"),
    ("0,5.5,5", "t.csv:3: prompt_tokens 5.5 is not a whole number of tokens"),
    ("0,five,5", "t.csv:3: prompt_tokens 'five' is not a number"),
    ("0,1_0,5", "t.csv:3: prompt_tokens '1_0' is not a number"),
    ("0,٣,5", "t.csv:3: prompt_tokens '٣' is not a number"),
    ("0,,5", "t.csv:3: prompt_tokens is empty"),
    ("0,nan,5", "t.csv:3: prompt_tokens 'nan' is not a number"),
    ("0,9999999999,5", "t.csv:3: prompt_tokens 9999999999 is more tokens than any model takes"),
    ("0,1e999,5", "t.csv:3: prompt_tokens '1e999' is not a number"),
    ("0," + "9" * 5000 + ",5", "is not a number"),
    ("inf,5,5", "t.csv:3: arrival_s 'inf' is not a number"),
    ("-1,5,5", "t.csv:3: arrival_s '-1' is negative; arrivals count from 0"),
    ("1e300,5,5", r"t.csv:3: arrival_s '1e300' is beyond 1e\+10 s; it is no arrival"),
    ("0,5", "t.csv:3: the row has 2 fields, but the header has 3"),
    ("0,5,5,5", "t.csv:3: the row has 4 fields, but the header has 3"),
    ('0,5,"5', r"t.csv:3: output_tokens '5\\n2,5,5\\n' is not a number"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_a_bad_row_is_one_sentence_with_its_line(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, f"{OURS}0,1,1\n{row}\n2,5,5\n")
    assert "\n" not in str(error.value)
    assert len(str(error.value).partition("t.csv")[2]) < 150


@pytest.mark.parametrize("number", ["12", "12.0", " 12", "1.2e1"])
def test_a_whole_number_is_taken_however_it_is_written(tmp_path: Path, number: str) -> None:
    assert read(tmp_path, f"{OURS}0,{number},1\n").prompt_tokens.tolist() == [12]


def test_a_trace_left_with_one_request_says_what_was_left_out(tmp_path: Path) -> None:
    workload = read(tmp_path, OURS + "0,5,5\n1,5,0\n2,5,0\n")
    with pytest.raises(UserError, match=r"no rate; .* \(2 row\(s\) were left out: on line 3"):
        _ = workload.rate_per_s


def test_a_time_that_goes_back_is_refused_even_from_a_rejected_row(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"t.csv:3: arrival_s goes back by 1.5 s; sort rows"):
        read(tmp_path, OURS + "2,5,0\n0.5,5,5\n")


BAD_JSON = [
    ("[1, 2]", "t.csv:2: is a JSON list, not an object"),
    ("{", "t.csv:2: is not JSON"),
    ('{"a":' * 100_000, "t.csv:2: is not JSON"),
    ('{"timestamp": 0, "input_length": 1}', "t.csv:2: output_length is missing"),
    (
        '{"timestamp": 0, "input_length": true, "output_length": 1}',
        "t.csv:2: input_length True is not a number",
    ),
    (
        '{"timestamp": NaN, "input_length": 1, "output_length": 1}',
        "t.csv:2: timestamp nan is not a number",
    ),
    (
        '{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [1.5]}',
        "t.csv:2: hash_ids .* is not a list of whole numbers",
    ),
    (
        '{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [-1]}',
        "t.csv:2: hash_ids has an id below 0",
    ),
]


@pytest.mark.parametrize(("row", "message"), BAD_JSON)
def test_a_bad_json_line_is_one_sentence_with_its_line(
    tmp_path: Path, row: str, message: str
) -> None:
    good = '{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [0]}'
    with pytest.raises(UserError, match=message):
        read(tmp_path, f"{good}\n{row}\n")


BAD_FILES = [
    (b"", "t.csv: is empty"),
    (OURS.encode(), "t.csv: there is no request in it"),
    (OURS.encode() + b"0,1,0\n", "t.csv: none of its 1 rows is a request: on line 2, output_tok"),
    (b"arrival_s,prompt_tokens\n0,1\n", "t.csv:1: output_tokens is missing for a servecast trace"),
    (b"TIMESTAMP,ContextTokens\n", "t.csv:1: GeneratedTokens is missing for a azure trace"),
    (b"a,b,c\n1,2,3\n", "t.csv:1: a, b, c: not the fields of a known trace format: servecast ."),
    (b"0.5,100,200\n", "t.csv:1: 0.5, 100, 200: not the fields of a known trace format"),
    (b"\n0,1,1\n", "t.csv:1: is blank; the first line must name the columns"),
    (b"arrival_s,prompt_tokens,prompt_tokens\n", "t.csv:1: column prompt_tokens is there more"),
    (b"\x7fELF\x02\x01\x01\x00\x00\n", "t.csv: is not UTF-8 text"),
    (b"PAR1\x15\x04\x80\xff\n", "t.csv: is not UTF-8 text"),
    (OURS.encode("utf-16"), "t.csv: is not UTF-8 text"),
    (OURS.encode() + b"0,\xe9,1\n", r"t.csv:2: prompt_tokens '\\udce9' is not a number"),
    (OURS.encode() + b"x" * 200_000 + b",1,1\n", "t.csv:2: is not CSV: field larger than"),
]


@pytest.mark.parametrize(("content", "message"), BAD_FILES)
def test_a_file_that_is_no_trace_is_one_sentence(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_a_directory_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a directory; a trace is one CSV or JSON lines file"):
        read_trace(tmp_path)
    with pytest.raises(UserError, match=r"none.csv: cannot be read: No such file"):
        read_trace(tmp_path / "none.csv")


def test_an_unknown_format_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--trace-format 'azur' is not one of .*; did you mean azure?"
    ):
        read(tmp_path, OURS + "0,1,1\n", TraceOptions(format="azur"))


def test_a_format_that_the_file_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"t.csv: is CSV, but a trace in the mooncake format is JSON"
    ):
        read(tmp_path, OURS + "0,1,1\n", TraceOptions(format="mooncake"))
    with pytest.raises(UserError, match=r"t.csv:1: arrived_at, num_prefill_tokens, num_dec"):
        read(tmp_path, OURS + "0,1,1\n", TraceOptions(format="vidur"))


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert len(read(tmp_path, b"\xef\xbb\xbf" + OURS.encode() + b"0,1,1\n")) == 1


def test_reading_stops_after_the_requests_asked_for(tmp_path: Path) -> None:
    text = OURS + "0,1,1\n1,1,0\n2,1,1\nnot read\n"
    workload = read(tmp_path, text, TraceOptions(num_requests=2))
    assert (lines(workload), [line for line, _ in rejected(workload)]) == ([2, 4], [3])
    with pytest.raises(UserError, match="cannot read 0 requests; ask for 1 or more"):
        read(tmp_path, text, TraceOptions(num_requests=0))


def test_a_rate_rescales_the_file_and_a_cv_replaces_its_pattern(tmp_path: Path) -> None:
    text = OURS + "0,1,1\n1,2,1\n4,3,1\n"
    scaled = read(tmp_path, text, TraceOptions(rate_per_s=1))
    assert scaled.arrival_s.tolist() == [0, 0.5, 2]
    regular = read(tmp_path, text, TraceOptions(arrival_cv=0))
    assert regular.arrival_s.tolist() == [0, 2, 4]


requests = st.lists(
    st.tuples(st.floats(0, 10), st.integers(1, 999_999_999), st.integers(1, 999_999_999)),
    min_size=1,
    max_size=6,
)


@given(requests=requests)
def test_what_is_written_reads_back_to_the_same_numbers(
    tmp_path_factory: pytest.TempPathFactory, requests: list[tuple[float, int, int]]
) -> None:
    gaps_s, prompt, output = zip(*requests, strict=True)
    arrival_s = np.concatenate(([0.0], np.cumsum(gaps_s[1:])))
    written = Workload("w", arrival_s, np.array(prompt), np.array(output))
    path = tmp_path_factory.mktemp("trace") / "w.csv"
    write_trace(written, path)
    back = read_trace(path)
    assert back.arrival_s.tolist() == written.arrival_s.tolist()
    assert back.prompt_tokens.tolist() == list(prompt)
    assert back.output_tokens.tolist() == list(output)


@given(content=st.binary(max_size=60))
def test_no_bytes_end_in_anything_but_a_workload_or_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "t.csv"
    for head in (b"", OURS.encode(), AZURE.encode(), b'{"timestamp": 0, "input_length": '):
        path.write_bytes(head + content)
        try:
            workload = read_trace(path)
        except UserError:
            continue
        assert len(workload) > 0


def test_each_format_is_recognised_by_its_own_fields_alone() -> None:
    for name, row in FORMATS.items():
        twins = [
            other
            for other, its in FORMATS.items()
            if other != name and its.json_lines is row.json_lines
            if set(its.recognised_by) == set(row.recognised_by)
        ]
        assert not twins, name


def test_clients_sessions_and_priorities_are_read_where_a_trace_has_them(tmp_path: Path) -> None:
    rows = "0,1,1,ann,7,0\n1,1,1,bob,8,2\n2,1,1,ann,7,1\n"
    workload = read(
        tmp_path, "arrival_s,prompt_tokens,output_tokens,client,session,priority\n" + rows
    )
    columns = (workload.client, workload.session, workload.priority)
    assert [None if each is None else each.tolist() for each in columns] == [
        [0, 1, 0],
        [0, 1, 0],
        [0, 2, 1],
    ]
    write_trace(workload, tmp_path / "again.csv")
    again = read_trace(tmp_path / "again.csv")
    assert again.priority is not None
    assert again.priority.tolist() == [0, 2, 1]


def test_a_trace_without_them_has_none(tmp_path: Path) -> None:
    workload = read(tmp_path, OURS + "0,1,1\n")
    assert (workload.client, workload.session, workload.priority) == (None, None, None)


def test_the_sessions_of_burstgpt_3_have_names(tmp_path: Path) -> None:
    head = "Timestamp,Session ID,Request tokens,Response tokens\n"
    session = read(tmp_path, head + "5,x9,1,1\n6,y1,1,1\n7,x9,1,1\n").session
    assert session is not None
    assert session.tolist() == [0, 1, 0]


def test_a_turn_of_bailian_belongs_to_the_session_of_its_parent(tmp_path: Path) -> None:
    chats = [(159, -1), (160, 159), (161, -1), (162, 160), (163, 99)]
    rows = "".join(
        f'{{"chat_id": {chat}, "parent_chat_id": {parent}, "timestamp": 1.0, "input_length": 3, '
        f'"output_length": 1, "hash_ids": [{chat}]}}\n'
        for chat, parent in chats
    )
    session = read(tmp_path, rows).session
    assert session is not None
    assert session.tolist() == [0, 0, 1, 0, 2]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0,1,1,,0\n", "t.csv:2: client '' names nobody"),
        ("0,1,1,a,-1\n", "t.csv:2: priority -1 is negative"),
        ("0,1,1,a,high\n", "t.csv:2: priority 'high' is not a number"),
    ],
)
def test_a_client_or_priority_that_is_none_is_refused(
    tmp_path: Path, rows: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, "arrival_s,prompt_tokens,output_tokens,client,priority\n" + rows)


def test_a_row_with_other_fields_than_those_above_it_is_refused(tmp_path: Path) -> None:
    row = '{{{}"timestamp": 1, "input_length": 3, "output_length": 1, "hash_ids": [1]}}\n'
    rows = row.format('"chat_id": 1, ') + row.format("")
    with pytest.raises(UserError, match=r"t\.csv:2: has no session, unlike the rows above it"):
        read(tmp_path, rows)
