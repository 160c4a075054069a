"""The list of formats: readable without torch, and every reader is there."""

import subprocess
import sys
from pathlib import Path

import pytest

from vlg_lib.convert import formats
from vlg_lib.convert.formats.registry import FORMATS, OTHER_CONVERTERS
from vlg_lib.geometry.upright import AXES


def test_the_list_is_read_without_torch():
    code = (
        "import sys\n"
        "from vlg_lib.convert.formats.registry import FORMATS\n"
        "assert FORMATS['tum'].needs\n"
        "heavy = {'torch', 'numpy', 'typer'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", FORMATS)
def test_every_reader_is_there(name):
    form = FORMATS[name]
    assert callable(form.read)
    assert form.read.__doc__
    assert (form.points is None) == (name != "colmap")
    assert form.up in ("auto", *AXES)
    assert form.needs


def test_one_file_a_format():
    files = {
        path.stem
        for path in Path(formats.__file__).parent.glob("*.py")
        if path.stem != "__init__"
    }
    assert sorted(files) == sorted(formats.__all__)
    modules = {form.reader.partition(":")[0] for form in FORMATS.values()}
    assert len(modules) == len(FORMATS)
    readers = {module.rpartition(".")[2] for module in modules}
    assert files - readers == {
        "base",
        "colmap_model",
        "registry",
        "rgbd_folder",
    }


def test_no_converter_has_the_name_of_a_format():
    assert not FORMATS.keys() & OTHER_CONVERTERS.keys()
