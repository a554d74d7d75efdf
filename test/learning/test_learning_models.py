# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The model store: promotion only on evidence, rollback, retention, and no state in between."""
from collections.abc import Iterator
from contextlib import contextmanager
import fcntl
import hashlib
import json
import os
from pathlib import Path
import resource
import shutil
import subprocess
import sys

from muster.learning.agents.base import Discrete
from muster.learning.agents.q_learning import QLearning
from muster.learning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from muster.learning.models import (
    ModelError, ModelFileError, ModelNotFoundError, ModelStore, Policy, snapshot)
from muster.learning.models.comparison import compare
import numpy as np
import pytest

GENERATOR = np.random.default_rng(1)
HERE = {'observation': ['ahead'], 'action': ['go']}


def model(value: float = 0.0, meaning: dict = HERE, size: int = 4) -> Checkpoint:
    """Return a model that can be told from others."""
    return Checkpoint({**snapshot(QLearning(Discrete(2), seed=1), meaning).document, 'value': value},
                      {'values': np.full(size, value)})


def value(store: ModelStore, selector: int | str) -> float:
    """Return which model a selector stands for, as it is on disk."""
    checkpoint = store.load(selector)
    assert (checkpoint.arrays['values'] == checkpoint.document['value']).all()
    return float(checkpoint.document['value'])


def returns(mean: float, spread: float = 1.0, episodes: int = 20) -> list[float]:
    """Return a sample with exactly this mean and standard deviation."""
    sample = GENERATOR.standard_normal(episodes)
    return (mean + spread * (sample - sample.mean()) / sample.std()).tolist()


def champion(store: ModelStore, mean: float, spread: float = 1.0) -> int:
    """Save a version and make it champion."""
    version = store.save(model(mean))
    store.evaluate(version.number, returns(mean, spread))
    verdict = store.promote(version.number)
    assert verdict.promoted, verdict.reason
    return version.number


# Versions -------------------------------------------------------------------------------------
def test_every_save_is_a_new_version_with_a_manifest(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / 'a' / 'models')
    assert store.versions() == []
    first = store.save(model(1.0), {'success_rate': 0.5}, 'trained')
    second = store.save(model(2.0), parent=first.number, name='trained')
    third = store.save(model(3.0))
    assert [version.number for version in (first, second, third)] == [1, 2, 3]
    assert store.versions() == [first, second, third]
    assert ModelStore(store.folder).find(1) == first
    assert (first.kind, first.metrics, second.parent, first.role) == (
        'q_learning', {'success_rate': 0.5}, 1, 'challenger')
    assert first.specification == model().document['digest'] and first.hyperparameters['discount'] == 0.95
    file = store.path(first)
    assert first.size == file.stat().st_size and file.stat().st_mode & 0o777 == 0o600
    assert load_checkpoint(file, first.sha256).document['manifest']['metrics'] == {'success_rate': 0.5}
    assert [value(store, s) for s in (1, '1', 'trained', 'latest')] == [1.0, 1.0, 2.0, 3.0]
    for selector, text in ((9, "no model '9'"), ('champion', 'no champion yet'), ('none', "no model 'none'")):
        with pytest.raises(ModelNotFoundError, match=text):
            store.load(selector)


@pytest.mark.parametrize('name', ['../up', 'a/b', '.hidden', 'x' * 65, 'ä', 'a b', 'a\n', '7', 'v000001',
                                  'champion', 'latest'])
def test_a_bad_name_saves_nothing(tmp_path: Path, name: str) -> None:
    store = ModelStore(tmp_path / 'models')
    with pytest.raises(ModelError, match='is not a model name'):
        store.save(model(), name=name)
    assert store.versions() == [] and not list(store.folder.glob('*.npz'))
    if not name.isalnum():
        with pytest.raises(ModelError, match='is not a model name'):
            store.load(name)


@pytest.mark.parametrize('metrics', [{'a': float('nan')}, {'a': 'x'}, {1: 1.0}, {'a' * 65: 1.0},
                                     {str(i): 1.0 for i in range(65)}])
def test_bad_metrics_save_nothing(tmp_path: Path, metrics: dict) -> None:
    store = ModelStore(tmp_path)
    with pytest.raises(ModelError, match='not saved'):
        store.save(model(), metrics)
    assert store.versions() == []


# Promotion ------------------------------------------------------------------------------------
def test_a_better_challenger_is_promoted_and_a_worse_or_an_unsure_one_is_not(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    first = champion(store, 10.0)
    for mean, spread, text in ((9.0, 1.0, 'not surely better'), (10.3, 1.0, 'not surely better'),
                               (12.0, 10.0, 'not surely better'), (10.0, 1.0, 'not surely better')):
        challenger = store.save(model(mean))
        store.evaluate(challenger.number, returns(mean, spread))
        verdict = store.promote(challenger.number)
        assert not verdict.promoted and text in verdict.reason and verdict.against == first
        assert verdict.difference == pytest.approx(mean - 10.0) and verdict.low <= 0.0
        assert store.find('champion').number == first
    better = store.save(model(11.5), name='better')
    store.evaluate('better', returns(11.5))
    verdict = store.promote('better')
    assert verdict.promoted and 0.0 < verdict.low < verdict.difference == pytest.approx(1.5)
    assert store.find('champion').number == better.number and store.find(first).role == 'predecessor'
    assert 'is the champion already' in store.promote('better').reason


def test_too_few_evaluation_episodes_promote_nothing(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, Policy(episodes=5))
    store.save(model(1.0))
    store.evaluate(1, returns(1.0, episodes=4))
    verdict = store.promote(1)
    assert not verdict.promoted and '4 evaluation episodes, 5 are needed' in verdict.reason
    store.evaluate(1, [1.0])
    assert store.promote(1).promoted
    store.save(model(2.0))
    store.evaluate(2, returns(100.0, episodes=4))
    assert not store.promote(2).promoted
    for bad in ([float('nan')], [float('inf')], ['x'], [None]):
        with pytest.raises(ModelError, match='finite'):
            store.evaluate(2, bad)
    assert len(store.find(2).returns) == 4


def test_it_is_compared_with_the_best_so_far_not_with_the_last(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    champion(store, 10.0)
    second = champion(store, 12.0)
    store.evaluate(second, returns(2.0, episodes=60))  # it was good by luck
    store.save(model(9.0), name='middling')
    store.evaluate('middling', returns(9.0))
    verdict = store.promote('middling')
    assert not verdict.promoted and 'worse than the best so far, version 1 with 10' in verdict.reason
    assert store.find('champion').number == second


def test_champions_of_other_specifications_are_not_compared(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    champion(store, 100.0)
    other = store.save(model(1.0, {'observation': ['behind']}))
    store.evaluate(other.number, returns(1.0))
    assert 'the first champion of its specification' in store.promote(other.number).reason
    assert store.find('champion').number == other.number
    store.save(model(50.0))
    store.evaluate('latest', returns(50.0))
    assert not store.promote('latest').promoted  # the one of its own specification had 100


def test_rollback_goes_back_champion_by_champion_and_what_was_rejected_stays_so(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    with pytest.raises(ModelNotFoundError, match='no champion yet'):
        store.rollback()
    numbers = [champion(store, mean) for mean in (1.0, 3.0, 5.0)]
    assert store.rollback().number == numbers[1]
    assert value(store, 'champion') == 3.0 and store.find(numbers[2]).role == 'rejected'
    assert 'was rolled back' in store.promote(numbers[2]).reason
    assert champion(store, 4.0) and store.rollback().number == numbers[1]  # 4 < 5, but 5 was rejected
    assert store.rollback().number == numbers[0]
    with pytest.raises(ModelError, match='no predecessor'):
        store.rollback()
    assert value(store, 'champion') == 1.0


def test_equal_policies_are_rarely_promoted_and_better_ones_mostly() -> None:
    generator = np.random.default_rng(3)

    def share(gain: float) -> float:
        return float(np.mean([compare(generator.normal(gain, 1.0, 20), generator.normal(0.0, 1.0, 20)).better
                              for _ in range(150)]))
    assert share(0.0) <= 0.06  # nominally 0.025
    assert share(1.5) >= 0.95


# Retention ------------------------------------------------------------------------------------
def test_champions_names_and_the_newest_are_kept(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, Policy(newest=2, predecessors=1, names=2))
    numbers = [champion(store, mean) for mean in (1.0, 3.0, 5.0)]
    store.save(model(7.0), name='a')
    store.save(model(8.0), name='a')
    for _ in range(5):
        store.save(model(9.0))
    kept = [(version.number, version.role, version.name) for version in store.versions()]
    assert kept == [(numbers[1], 'predecessor', ''), (numbers[2], 'champion', ''), (5, 'challenger', 'a'),
                    (9, 'challenger', ''), (10, 'challenger', '')]
    assert sorted(tmp_path.glob('*.npz')) == [store.path(version) for version in store.versions()]
    store.save(model(), name='b')
    with pytest.raises(ModelError, match='models of 2 names'):
        store.save(model(), name='c')
    assert store.save(model(), name='a').number == 12
    with pytest.raises(ModelError, match='is the champion'):
        store.remove('champion')
    assert store.remove('b').number == 11 and not (tmp_path / 'v000011.npz').exists()
    assert store.save(model(), name='c').number == 13


def test_the_size_is_bounded(tmp_path: Path) -> None:
    one = ModelStore(tmp_path / 'one').save(model(size=1000)).size
    store = ModelStore(tmp_path / 'models', Policy(size=3 * one + 500))
    for _ in range(5):
        store.save(model(size=1000))
    assert [version.number for version in store.versions()] == [3, 4, 5]
    with pytest.raises(ModelError, match='must be kept take'):
        store.save(model(size=4000))
    assert [version.number for version in store.versions()] == [3, 4, 5]
    assert len(list(store.folder.glob('*.npz'))) == 3


@pytest.mark.parametrize('policy', [{'episodes': 0}, {'newest': 0}, {'size': -1}])
def test_a_policy_that_keeps_or_asks_nothing_is_refused(policy: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(policy))):
        Policy(**policy)


# Damage and interruption ----------------------------------------------------------------------
def test_files_put_there_by_hand_and_of_the_older_kind_are_loaded_by_name(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / 'new.npz', model(1.0))
    save_checkpoint(tmp_path / 'text.json', model(2.0))
    body = b'{"document": {"kind": "q_learning"}, "arrays": [["values", "float64", [1, 2]]]}\n' + bytes(16)
    checksum = hashlib.sha256(body).hexdigest().encode()
    (tmp_path / 'latest.model').write_bytes(b'muster-checkpoint 1\n' + checksum + b'\n' + body)
    store = ModelStore(tmp_path)
    assert value(store, 'new') == 1.0 and value(store, 'text') == 2.0
    assert store.load('latest').document == {'kind': 'q_learning'}
    store.save(model(3.0))
    assert value(store, 'latest') == 3.0 and value(store, 'new') == 1.0
    (tmp_path / 'garbage.model').write_bytes(b'garbage')
    with pytest.raises(ModelFileError, match=r'garbage\.model: is not a Muster model file'):
        store.load('garbage')


def test_symbolic_links_and_other_files_in_a_models_place_are_refused(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / 'models')
    version = store.save(model(1.0))
    outside = tmp_path / 'outside.npz'
    save_checkpoint(outside, model(5.0))
    (store.folder / 'link.npz').symlink_to(outside)
    with pytest.raises(ModelFileError, match='symbolic link'):
        store.load('link')
    shutil.copy(outside, store.path(version))
    with pytest.raises(ModelFileError, match='another checksum'):
        store.load(1)
    store.path(version).unlink()
    store.path(version).symlink_to(outside)
    with pytest.raises(ModelFileError, match='symbolic link'):
        store.load(1)
    (store.folder / 'index.json').unlink()
    (store.folder / 'index.json').symlink_to(outside)
    for work in (store.versions, store.rollback, lambda: store.save(model())):
        with pytest.raises(ModelFileError, match=r'index\.json'):
            work()
    assert load_checkpoint(outside).document['value'] == 5.0


@pytest.mark.parametrize('change', [
    {'format': 'x'}, {'version': 2}, {'next': 1}, {'next': 'x'}, {'versions': 1}, {'versions': [1]},
    *({'versions': [entry]} for entry in ({}, {'number': 1})),
    'doubled', 'role', 'returns', 'sha256', 'extra'])
def test_a_damaged_index_is_named_and_nothing_changed(tmp_path: Path, change: dict | str) -> None:
    store = ModelStore(tmp_path)
    store.save(model(1.0))
    path = tmp_path / 'index.json'
    content = json.loads(path.read_text())
    if isinstance(change, dict):
        content.update(change)
    elif change == 'doubled':
        content['versions'] *= 2
    else:
        content['versions'][0][change] = 'evil'
    path.write_text(json.dumps(content))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for work in (store.versions, lambda: store.load(1), lambda: store.save(model()), store.rollback):
        with pytest.raises(ModelFileError, match=r'index\.json: is damaged.*remove it'):
            work()
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    path.unlink()
    assert value(store, 1) == 1.0


def test_a_lost_index_is_made_anew_from_the_model_files(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    champion(store, 1.0)
    store.save(model(2.0), {'a': 0.5}, 'b', parent=1)
    before = store.versions()
    (tmp_path / 'index.json').unlink()
    recovered = store.versions()
    assert recovered[1] == before[1]
    assert (recovered[0].role, recovered[0].returns) == ('challenger', ())
    assert store.save(model(3.0)).number == 3 and value(store, 'b') == 2.0
    (tmp_path / 'v000009.npz').write_bytes(b'garbage')
    with pytest.raises(ModelFileError, match=r'v000009\.npz: is not'):
        store.save(model(4.0))
    assert (tmp_path / 'v000009.npz').exists() and value(store, 3) == 3.0


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let writing beyond `size` bytes fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize('limit', [0, 100, 600, 5_000])
def test_a_full_disk_leaves_everything_as_it_was_and_says_so(tmp_path: Path, limit: int) -> None:
    store = ModelStore(tmp_path)
    first = champion(store, 1.0)
    second = store.save(model(9.0))
    store.evaluate(second.number, returns(9.0, episodes=200))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    works = [lambda: store.save(model(2.0, size=10_000))]
    if limit < 5_000:
        works += [lambda: store.evaluate(first, [1.0]), lambda: store.promote(2), lambda: store.remove(2)]
    for work in works:
        with largest_file(limit), pytest.raises(ModelFileError, match=r'as it was|unchanged'):
            work()
        assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert store.save(model(2.0)).number == 3


def test_a_folder_that_cannot_be_written_is_an_error_but_still_read(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(ModelFileError, match='file'):
        ModelStore(tmp_path / 'file' / 'models').save(model())
    with pytest.raises(ModelFileError, match='file'):
        ModelStore(tmp_path / 'file').save(model())


def test_a_store_that_another_process_holds_is_an_error(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('muster.learning.models.store.PATIENCE', 0.0)
    store = ModelStore(tmp_path)
    store.save(model(1.0))
    with (tmp_path / '.lock').open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ModelFileError, match='in use by another process'):
            store.save(model(2.0))
    assert store.save(model(2.0)).number == 2


#: Forks a child that works on the store and is killed at its n-th system call of interest, for every n.
CRASHES = '''
import os, signal, sys
from pathlib import Path
import numpy as np
from muster.learning.checkpoint import Checkpoint
from muster.learning.models import ModelStore, Policy

store = ModelStore(Path(sys.argv[1]), Policy(episodes=2, newest=2))
EVENTS = {'open', 'os.rename', 'os.remove', 'os.chmod', 'fcntl.flock'}

def work(tell):
    number = store.save(Checkpoint({'kind': 'x', 'digest': 's'}, {'a': np.full(50_000, 7)}), {}, 'n').number
    tell(b'saved %d\\n' % number)
    store.evaluate(number, [float(number), number + 0.1])
    if store.promote(number).promoted:
        tell(b'champion %d\\n' % number)

def run(point):
    """Work, killed at an event; return what was acknowledged and whether it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        left = [point]
        def hook(event, _):
            if event in EVENTS:
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        work(lambda text: os.write(writing, text))
        os._exit(0)
    os.close(writing)
    with open(reading, 'rb') as told:
        acknowledged = dict(line.split() for line in told.read().splitlines())
    return acknowledged, os.WIFSIGNALED(os.waitpid(child, 0)[1])

work(lambda text: None)
point, killed, champion, newest = 0, True, 1, 1
while killed:
    point += 1
    acknowledged, killed = run(point)
    newest = max(newest, int(acknowledged.get(b'saved', 0)))
    champion = max(champion, int(acknowledged.get(b'champion', 0)))
    versions = store.versions()
    for version in versions:
        assert (store.load(version.number).arrays['a'] == 7).all()
    assert versions[-1].number >= newest, (point, versions)
    assert store.find('champion').number >= champion, (point, versions)
    assert len(versions) <= 12
work(lambda text: None)
files = sorted(p.name for p in store.folder.iterdir())
assert files == ['.lock', 'index.json', *(store.path(v).name for v in store.versions())], files
print(point)
'''


def test_killed_at_every_step_of_a_save_the_store_holds_the_last_good_version(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, '-c', CRASHES, str(tmp_path)], capture_output=True, text=True,
                          timeout=100, env={**os.environ, 'OPENBLAS_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20  # so many steps there were


def test_processes_take_turns(tmp_path: Path) -> None:
    code = ('import sys; from pathlib import Path; import numpy as np\n'
            'from muster.learning.checkpoint import Checkpoint\n'
            'from muster.learning.models import ModelStore\n'
            'for _ in range(10): ModelStore(Path(sys.argv[1])).save(Checkpoint({}, {"a": np.zeros(9)}))\n')
    children = [subprocess.Popen([sys.executable, '-c', code, str(tmp_path)]) for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert [version.number for version in ModelStore(tmp_path).versions()] == list(range(21, 31))
