# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Model files: kill-safe, private, and refused when they are anything but sound."""
import hashlib
import json
import os
from pathlib import Path
import pickle
import resource
import signal
import subprocess
import sys

from muster.learning.agents.base import Discrete
from muster.learning.agents.q_learning import QLearning
from muster.learning.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from muster.learning.models import ModelError, ModelFolder, restore, snapshot
import numpy as np
import pytest

SOUND = Checkpoint({'text': 'ä', 'numbers': [1, 0.1]},
                   {'values': np.arange(6.0).reshape(2, 3), 'none': np.zeros((0, 4), np.float32)})


def write(path: Path, header: object, data: bytes = b'') -> Path:
    """Write a file with a right checksum around any content."""
    body = (header if isinstance(header, bytes) else json.dumps(header).encode()) + b'\n' + data
    path.write_bytes(b'muster-checkpoint 1\n' + hashlib.sha256(body).hexdigest().encode() + b'\n' + body)
    return path


def test_what_is_saved_is_loaded_and_only_the_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / 'new' / 'a.model'
    save_checkpoint(path, SOUND)
    loaded = load_checkpoint(path)
    assert loaded.document == SOUND.document
    assert all((loaded.arrays[name] == array).all() for name, array in SOUND.arrays.items())
    assert loaded.arrays['none'].shape == (0, 4) and loaded.arrays['none'].dtype == np.float32
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ['a.model']


def test_every_truncation_and_every_flipped_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'a.model'
    save_checkpoint(path, SOUND)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r'a\.model'):
            load_checkpoint(path)
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1:])
        with pytest.raises(CheckpointError, match=r'a\.model'):
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


def test_other_things_than_model_files_are_refused_at_once(tmp_path: Path) -> None:
    huge = tmp_path / 'huge.model'
    with huge.open('wb') as file:
        file.truncate(2**40)  # sparse
    os.mkfifo(tmp_path / 'pipe.model')
    (tmp_path / 'next.model').write_bytes(b'muster-checkpoint 2\n')
    for name, reason in (('huge.model', 'larger'), ('pipe.model', 'regular'), ('next.model', 'version 2'),
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


@pytest.mark.parametrize('name', ['', '../up', 'a/b', '.hidden', 'x' * 65, 'ä', 'a b', 'a\n'])
def test_model_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match='is not a model name'):
        ModelFolder(tmp_path).save(name, SOUND)


def test_the_model_folder_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('muster.learning.models.MAXIMUM_MODELS', 2)
    models = ModelFolder(tmp_path)
    models.save('a', SOUND)
    models.save('b', SOUND)
    with pytest.raises(ModelError, match='holds 2 models'):
        models.save('c', SOUND)
    models.save('a', SOUND)
    with pytest.raises(ModelError, match="no model 'c'"):
        models.load('c')
