# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Model files: kill-safe, private, and refused when they are anything but sound."""
import hashlib
import io
import json
import os
from pathlib import Path
import pickle
import resource
import signal
import subprocess
import sys
from tempfile import TemporaryDirectory
from typing import Any
import zipfile

from hypothesis import given, settings, strategies as st
from muster.learning.agents.base import Discrete
from muster.learning.agents.q_learning import QLearning
from muster.learning.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from muster.learning.models import ModelError, restore, snapshot
import numpy as np
import pytest

SOUND = Checkpoint({'text': 'ä', 'numbers': [1, 0.1]},
                   {'values': np.arange(6.0).reshape(2, 3), 'none': np.zeros((0, 4), np.float32)})


def write(path: Path, header: object, data: bytes = b'') -> Path:
    """Write a file of version 1 with a right checksum around any content."""
    body = (header if isinstance(header, bytes) else json.dumps(header).encode()) + b'\n' + data
    path.write_bytes(b'muster-checkpoint 1\n' + hashlib.sha256(body).hexdigest().encode() + b'\n' + body)
    return path


def npy(array: Any, **changes: Any) -> bytes:
    """Return a `.npy` file."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), **changes)
    return stream.getvalue()


def forge(path: Path, members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> Path:
    """Write an archive of any content behind a right checksum."""
    with zipfile.ZipFile(path, 'w', compression) as archive:
        archive.comment = b'muster-model 2 sha256 ' + b'0' * 64
        for name, content in members:
            archive.writestr(name, content)
    return sealed(path, path.read_bytes())


def sealed(path: Path, content: bytes) -> Path:
    """Write an archive with the right checksum at its end."""
    blank = content[:-64] + b'0' * 64
    path.write_bytes(content[:-64] + hashlib.sha256(blank).hexdigest().encode())
    return path


ARRAYS = {
    'values': np.arange(6.0).reshape(2, 3), 'none': np.zeros((0, 4), np.float32), 'scalar': np.array(2.5),
    'net/w-1.0': np.array([[0.1, np.nan], [np.inf, -np.inf]], np.float32), 'flags': np.array([True, False]),
    'bytes': np.arange(3, dtype=np.uint8), 'turned': np.arange(6, dtype=np.int64).reshape(2, 3).T,
    'big': np.array([1, 2], '>i4')}


@pytest.mark.parametrize('name', ['a.model', 'a.npz', 'a.json'])
def test_what_is_saved_is_loaded_and_only_the_owner_can_read_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / 'new' / name
    checksum = save_checkpoint(path, Checkpoint(SOUND.document, ARRAYS))
    assert checksum == hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = load_checkpoint(path, checksum)
    assert loaded.document == SOUND.document and list(loaded.arrays) == list(ARRAYS)
    for key, array in ARRAYS.items():
        assert loaded.arrays[key].dtype == array.dtype.newbyteorder('=')
        np.testing.assert_array_equal(loaded.arrays[key], array, strict=key != 'big')
        loaded.arrays[key].fill(0)  # it is the caller's own
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == [name]
    with pytest.raises(CheckpointError, match='another checksum'):
        load_checkpoint(path, '0' * 64)


def test_numpy_and_unzip_open_a_model_file(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / 'a.npz', Checkpoint(SOUND.document, ARRAYS))
    with np.load(tmp_path / 'a.npz', allow_pickle=False) as opened:
        np.testing.assert_array_equal(opened['net/w-1.0'], ARRAYS['net/w-1.0'])
        assert json.loads(opened['model.json']) == SOUND.document


def test_files_of_version_1_are_still_read(tmp_path: Path) -> None:
    path = write(tmp_path / 'a.model', {'document': {'a': 1}, 'arrays': [['x', 'float32', [2]]]},
                 np.array([1, 2], '<f4').tobytes())
    loaded = load_checkpoint(path)
    assert loaded.document == {'a': 1} and loaded.arrays['x'].tolist() == [1.0, 2.0]


def test_a_json_model_changed_by_hand_needs_no_checksum(tmp_path: Path) -> None:
    path = tmp_path / 'a.json'
    save_checkpoint(path, SOUND)
    content = json.loads(path.read_text())
    content['arrays']['values']['values'][0] = 7
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="remove the key 'sha256'"):
        load_checkpoint(path)
    del content['sha256']
    path.write_text(json.dumps(content))
    assert load_checkpoint(path).arrays['values'][0, 0] == 7.0


@pytest.mark.parametrize('name', ['a.model', 'a.json'])
def test_every_truncation_and_every_flipped_byte_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save_checkpoint(path, SOUND)
    content = path.read_bytes()
    for length in range(0, len(content), 3):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r'a\.(model|json)'):
            load_checkpoint(path)
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1:])
        with pytest.raises(CheckpointError, match=r'a\.(model|json)'):
            load_checkpoint(path)


class Bomb:
    """An object that would run a command when unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ('executed',)


def test_no_file_can_execute_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'a.model'
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    np.savez(tmp_path / 'b.npz', a=np.array([Bomb()], object))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / 'b.npz')
    pickled = pickle.dumps(Bomb())
    write(path, {'document': {}, 'arrays': [['a', 'object', [1]]]}, pickled)
    with pytest.raises(CheckpointError, match='unknown type'):
        load_checkpoint(path)
    forge(path, [('model.json', b'{}'), ('a.npy', npy(np.array([Bomb()], object), allow_pickle=True))])
    with pytest.raises(CheckpointError, match='no plain array'):
        load_checkpoint(path)
    assert not (tmp_path / 'executed').exists()


@pytest.mark.parametrize('header', [
    b'[]', b'{}', b'{"document": [], "arrays": []}', b'{"document": {}, "arrays": [1]}', b'[' * 100_000,
    {'document': {}, 'arrays': [['a', 'float64', [10**18]]]},
    {'document': {}, 'arrays': [['a', 'float64', [-1]]]},
    {'document': {}, 'arrays': [['a', 'float64', ['1']]]},
    {'document': {}, 'arrays': [[['a'], 'float64', [0]]]}, {'document': {}, 'arrays': [['a', 'O', [0]]]},
    {'document': {}, 'arrays': [['a', 'float64', [1] * 100]]}])
def test_unsound_content_behind_a_right_checksum_is_refused(tmp_path: Path, header: object) -> None:
    with pytest.raises(CheckpointError, match='unsound'):
        load_checkpoint(write(tmp_path / 'a.model', header))


HUGE = b"\x93NUMPY\1\0\x76\0{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"


@pytest.mark.parametrize(('members', 'reason'), [
    ([('model.json', b'[]')], 'mapping'), ([('a.npy', npy(1))], r'model\.json'), ([('model.json', b'{')], ''),
    ([('model.json', b'[' * 100_000)], ''), ([('model.json', b'{}')] * 2, 'two of one name'),
    ([('model.json', b'{}')] + [(f'{i}.npy', npy(1)) for i in range(1025)], 'more than 1024'),
    ([('model.json', b'{}'), ('x' * 60_000, b''), ('y' * 60_000, b'')] * 5, 'table of contents'),
    *(([('model.json', b'{}'), (name, npy(1))], 'no plain array') for name in (
        '../up.npy', '/etc/up.npy', 'a/../../up.npy', 'a\\b.npy', '.npy', 'a', 'x' * 200 + '.npy')),
    *(([('model.json', b'{}'), ('a.npy', content)], 'unsound') for content in (
        b'', b'garbage', npy([1.0])[:-1], npy([1.0]) + b'0', HUGE.ljust(127) + b'\n', npy(['text']),
        npy([1.0], version=(2, 0)), npy(np.ones((2, 3)).T), npy(np.array([1], '>i4')), npy([1j]),
        npy([np.float16(1)]), npy(np.zeros((1,) * 9)), npy(np.array([(1, 2)], 'i4,i4')),
        npy([1.0]).replace(b'False, ', b'exit(),')))])
@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_malicious_archives_behind_a_right_checksum_are_refused(
        tmp_path: Path, members: list[tuple[str, bytes]], reason: str) -> None:
    path = forge(tmp_path / 'a.npz', members)
    with pytest.raises(CheckpointError, match=rf'a\.npz: .*{reason}'):
        load_checkpoint(path)
    assert [file.name for file in tmp_path.iterdir()] == ['a.npz']


def test_nothing_expands(tmp_path: Path) -> None:
    zeros = npy(np.zeros(2**21))
    bomb = forge(tmp_path / 'bomb.npz', [('model.json', b'{}'), ('a.npy', zeros)], zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < len(zeros) / 500
    with pytest.raises(CheckpointError, match='compressed'):
        load_checkpoint(bomb)
    # Entries of the table of contents that all point at the same bytes.
    path = forge(tmp_path / 'overlap.npz', [('model.json', b'{}'), ('a.npy', zeros), ('b.npy', b'')])
    content = bytearray(path.read_bytes())
    first, second = (content.rindex(b'PK\1\2', 0, content.rindex(name)) for name in (b'a.npy', b'b.npy'))
    content[second + 16:second + 28] = content[first + 16:first + 28]
    content[second + 42:second + 46] = content[first + 42:first + 46]
    with pytest.raises(CheckpointError, match='overlapping'):
        load_checkpoint(sealed(path, bytes(content)))
    # An entry that claims a large size.
    path = forge(tmp_path / 'claim.npz', [('model.json', b'{}'), ('a.npy', npy(1))])
    content = bytearray(path.read_bytes())
    entry = content.rindex(b'PK\1\2')
    content[entry + 20:entry + 28] = b'\xff\xff\xff\x7f' * 2
    with pytest.raises(CheckpointError, match='overlapping'):
        load_checkpoint(sealed(path, bytes(content)))


@pytest.mark.parametrize('change', [
    {'format': 'x'}, {'version': 3}, {'shb256': ''}, {'document': []}, {'arrays': []}, {'arrays': {'a': 1}},
    *({'arrays': {name: {'type': 'float64', 'shape': [1], 'values': [1.0]}}} for name in ('../a', '', 'a/')),
    *({'arrays': {'a': {'type': 'float64', 'shape': [1], 'values': [1.0], **entry}}} for entry in (
        {'type': 'object'}, {'shape': [2]}, {'shape': [-1]}, {'shape': 1}, {'values': ['x']}, {'values': 'x'},
        {'values': [True]}, {'type': 'uint8', 'values': [256]}, {'type': 'int64', 'values': [1.5]},
        {'type': 'int64', 'values': [2**64]}, {'values': [10**400]}, {'type': 'bool', 'values': [1]}))])
def test_unsound_json_models_are_refused(tmp_path: Path, change: dict) -> None:
    content = {'format': 'muster-model', 'version': 2, 'document': {}, 'arrays': {}, **change}
    (tmp_path / 'a.json').write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r'a\.json: '):
        load_checkpoint(tmp_path / 'a.json')


@given(data=st.data())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_damage_behind_a_right_checksum_gives_an_error_or_a_model(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / 'a.npz'
        save_checkpoint(path, SOUND)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 87))] = data.draw(st.integers(0, 255))
        try:
            loaded = load_checkpoint(sealed(path, bytes(content)))
        except CheckpointError as error:
            assert str(path) in str(error)
        else:
            assert sum(array.nbytes for array in loaded.arrays.values()) < len(content)


@pytest.mark.parametrize('name', ['a.npz', 'a.json'])
def test_what_could_not_be_loaded_is_not_saved(
        tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    save_checkpoint(path, SOUND)
    old = path.read_bytes()
    monkeypatch.setattr('muster.learning.checkpoint.MAXIMUM_BYTES', 10_000)
    monkeypatch.setattr('muster.learning.checkpoint.MAXIMUM_DOCUMENT', 5_000)
    for checkpoint in (Checkpoint({'a': object()}), Checkpoint({}, {'../a': np.zeros(1)}),
                       Checkpoint({}, {'a': np.array([object()])}), Checkpoint({'a': 'x' * 6_000}),
                       Checkpoint({}, {'a': np.zeros(1251)})):
        with pytest.raises(CheckpointError, match=name):
            save_checkpoint(path, checkpoint)
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_other_things_than_model_files_are_refused_at_once(tmp_path: Path) -> None:
    huge = tmp_path / 'huge.model'
    with huge.open('wb') as file:
        file.truncate(2**40)  # sparse
    os.mkfifo(tmp_path / 'pipe.model')
    (tmp_path / 'next.model').write_bytes(b'muster-checkpoint 9\n')
    for name, reason in (('huge.model', 'larger'), ('pipe.model', 'regular'), ('next.model', 'version 9'),
                         ('none.model', 'No such file'), ('', 'cannot be read|regular')):
        with pytest.raises(CheckpointError, match=reason):
            load_checkpoint(tmp_path / name)


@pytest.mark.parametrize(('change', 'reason'), [
    ({'states': [[1], [1]]}, 'table'), ({'states': []}, 'table'), ({'epsilon': 2}, 'exploration rate'),
    ({'epsilon': 'x'}, 'finite'), ({'actions': 3}, 'actions'), ({'parameters': {'evil': 1}}, 'evil'),
    ({'generator': {}}, 'generator'),
    ({'generator': {'bit_generator': 'PCG64', 'state': {'state': -1, 'inc': 1}}}, 'generator'),
    ({'statistics': {'steps': -1}}, 'count'), ({'statistics': None}, 'wrong type'),
    ({'states': None}, 'wrong type'), ({'due': [[1], 2, 0.0, [1], False]}, 'action 2')])
def test_an_unsound_agent_is_refused_and_the_agent_unchanged(change: dict, reason: str) -> None:
    saved = QLearning(Discrete(2), seed=1)
    saved.table[(1,)] = [0.5, 0.25]
    checkpoint = snapshot(saved, {})
    checkpoint.document['agent'].update(change)
    agent = QLearning(Discrete(2), seed=2)
    before = agent.export()[0]
    with pytest.raises(ModelError, match=reason):
        restore(checkpoint, agent, {})
    assert agent.export()[0] == before
    for document in ({}, {'kind': 'q_learning'}, {'kind': 'q_learning', 'meaning': {}, 'agent': 3}):
        with pytest.raises(ModelError):
            restore(Checkpoint(document), agent, {})


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / 'a.model'
    save_checkpoint(path, SOUND)
    old = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # writing beyond it fails with EFBIG
    try:
        with pytest.raises(CheckpointError, match='the old file is unchanged: File too large'):
            save_checkpoint(path, Checkpoint({}, {'big': np.zeros(10_000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ['a.model']


def test_killed_at_any_moment_the_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / 'a.model'
    code = ('import sys; from pathlib import Path; import numpy as np\n'
            'from muster.learning.checkpoint import Checkpoint, save_checkpoint\n'
            'number = 0\n'
            'while True:\n'
            '    number += 1\n'
            '    arrays = {"a": np.full(5000, number)}\n'
            '    save_checkpoint(Path(sys.argv[1]), Checkpoint({"n": number}, arrays))\n'
            '    print(number, flush=True)\n')
    for kills in range(6):
        child = subprocess.Popen([sys.executable, '-c', code, str(path)],
                                 stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        finished = [int(child.stdout.readline()) for _ in range(3 + kills)][-1]
        child.send_signal(signal.SIGKILL)
        child.wait(10)
        child.stdout.close()
        loaded = load_checkpoint(path)
        assert loaded.document['n'] >= finished
        assert (loaded.arrays['a'] == loaded.document['n']).all()
