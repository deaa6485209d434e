"""Packages that import their names when they are first used."""

import pkgutil

import pytest

import fft
import fft.data


@pytest.mark.parametrize("package", [fft, fft.data], ids=lambda package: package.__name__)
def test_every_name_can_be_imported_and_none_is_that_of_a_module(package):
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert not modules & set(package.__all__), "once imported, a module shadows the name"
    assert all(callable(getattr(package, name)) for name in package.__all__)
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'absent'"):
        _ = package.absent
