"""Whose folder it is."""

import pytest

from fft.errors import InputError
from fft.folder import EXPERIMENT, KINDS, refuse_foreign


@pytest.mark.parametrize("own", KINDS)
@pytest.mark.parametrize("mark", KINDS)
def test_a_folder_of_another_kind_is_refused_by_what_it_holds(tmp_path, own, mark):
    refuse_foreign(tmp_path, own)
    (tmp_path / mark).touch()
    if mark == own:
        refuse_foreign(tmp_path, own)
    else:
        with pytest.raises(InputError, match=f"holds {KINDS[mark]}; choose another --out"):
            refuse_foreign(tmp_path, own)


def test_a_folder_that_is_not_there_is_nobodys(tmp_path):
    refuse_foreign(tmp_path / "new", EXPERIMENT)
