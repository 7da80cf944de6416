"""Each field of a record says what it means."""

from kosreg.schemas.meanings import MEANINGS
from kosreg.schemas.service_schema import FIELDS, ServiceIn


def test_every_field_of_a_record_has_a_meaning_and_no_other_has() -> None:
    assert set(MEANINGS) == set(FIELDS) | set(ServiceIn.__annotations__)
