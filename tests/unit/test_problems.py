"""Problem details: what a refused call is told."""

import pytest

from kosreg.problems import KINDS, MAX_ERRORS, Problem


@pytest.mark.parametrize("slug", KINDS)
def test_every_problem_says_what_to_do_even_without_a_detail_of_its_own(slug: str) -> None:
    problem = Problem.of(slug)

    body = problem.to_dict()

    assert body["type"] == f"urn:kosreg:problem:{slug}"
    assert body["status"] == KINDS[slug].status
    assert body["title"] == KINDS[slug].title
    assert len(body["detail"]) > 30
    assert "errors" not in body


def test_an_unknown_slug_is_a_fault_of_the_code() -> None:
    with pytest.raises(KeyError):
        Problem.of("no-such-thing")


def test_the_text_of_the_exception_is_the_detail() -> None:
    assert str(Problem.of("gone", "Ask anew.")) == "Ask anew."


def test_faults_keep_their_pointers() -> None:
    problem = Problem.invalid(
        [{"pointer": "/name", "detail": "is missing"}, {"pointer": "/ttl", "detail": "is negative"}]
    )

    assert problem.to_dict()["errors"] == [
        {"pointer": "/name", "detail": "is missing"},
        {"pointer": "/ttl", "detail": "is negative"},
    ]


def test_a_single_fault_is_told_in_the_detail_too() -> None:
    assert Problem.invalid([{"pointer": "/name", "detail": "is missing"}]).detail == "/name: is missing"


def test_more_faults_than_anybody_reads_are_counted_not_listed() -> None:
    problem = Problem.invalid([{"pointer": f"/{n}", "detail": "is wrong"} for n in range(MAX_ERRORS + 7)])

    errors = problem.to_dict()["errors"]

    assert len(errors) == MAX_ERRORS + 1
    assert "7 more" in errors[-1]["detail"]


def test_extra_members_never_replace_those_of_the_rfc() -> None:
    body = Problem.of("conflict", extra={"candidates": ["a"], "status": 200}).to_dict()

    assert body["status"] == 409
    assert body["candidates"] == ["a"]  # type: ignore[typeddict-item]


def test_no_token_gets_a_challenge_without_an_error_code() -> None:
    """RFC 6750 §3.1."""
    assert Problem.unauthenticated(error=None).headers == {"WWW-Authenticate": 'Bearer realm="kosreg"'}


def test_a_bad_token_gets_the_code_and_a_description_that_is_a_valid_quoted_string() -> None:
    challenge = Problem.unauthenticated('it says "é\\" \n and more').headers["WWW-Authenticate"]

    assert challenge.startswith('Bearer realm="kosreg", error="invalid_token", error_description="')
    description = challenge.split('error_description="')[1][:-1]
    assert all(" " <= c <= "~" for c in description)
    assert '"' not in description
    assert "\\" not in description


def test_a_missing_scope_is_named() -> None:
    problem = Problem.out_of_scope("write:service:*")

    assert problem.status == 403
    assert "write:service:*" in problem.detail
    assert 'error="insufficient_scope", scope="write:service:*"' in problem.headers["WWW-Authenticate"]


@pytest.mark.parametrize(("seconds", "told"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (60, "60")])
def test_retry_after_is_whole_seconds_and_at_least_one(seconds: float, told: str) -> None:
    assert Problem.rate_limited(seconds).headers == {"Retry-After": told}


def test_method_not_allowed_lists_the_allowed_ones() -> None:
    problem = Problem.method_not_allowed(["POST", "GET"])

    assert problem.headers == {"Allow": "GET, POST"}
    assert "GET, POST" in problem.detail
