# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Requirements, offers and the choice between devices."""
from hypothesis import given, strategies as st
from muster.hardware.capabilities import (
    Candidate,
    CapabilityError,
    negotiate,
    Offer,
    Requirement,
)
import pytest

CAMERA = (Offer.of('video_capture', width=1920, height=1080, fps=30.0, pixel_format='MJPG'),
          Offer.of('video_capture', width=640, height=480, fps=60.0, pixel_format='YUYV'))
PORT = (Offer.of('serial', baud=(9600, 115200)),)


@pytest.mark.parametrize('text', [
    'imu', 'video_capture{width>=1280, fps>=30}', 'serial{baud=115200}', 'storage{removable=true}',
    'serial{protocol!=nmea}'])
def test_a_requirement_is_read_and_shown_alike(text: str) -> None:
    assert str(Requirement.parse(f'  {text} ')) == text


def test_spaces_do_not_matter() -> None:
    assert Requirement.parse('video_capture { width >= 1280 ,fps>=30 }') == \
        Requirement.parse('video_capture{width>=1280, fps>=30}')


@pytest.mark.parametrize('text, told', [
    ('', 'column 1'), ('Camera', 'column 1'), ('imu!', "'!' is not expected at column 4"),
    ('serial(baud=1)', 'column 7'), ('serial{baud}', 'column 8'), ('serial{baud=115200', 'column 8'),
    ('serial{}', 'column 8'), ('serial{baud=9600,}', 'column 18'),
    ('serial{baud=9600} x', 'nothing may follow the closing brace, column 18'),
    ('serial{bauds=9600}', "unknown attribute 'bauds': did you mean 'baud'?"),
    ('serial{zzz=1}', 'known are width'), ('serial{baud=fast}', "number [Bd], not 'fast'"),
    ('serial{baud=115200Bd}', 'without a unit'), ('video_capture{width>=nan}', 'finite'),
    ('video_capture{width=inf}', 'finite'), ('serial{protocol>=nmea}', '= and != only'),
    ('storage{removable=1}', 'true or false'), ('x' * 600, 'at most 512 characters'),
    ('a{' + ','.join(['width>1'] * 17) + '}', 'at most 16 constraints')])
def test_a_malformed_requirement_is_refused_by_name(text: str, told: str) -> None:
    with pytest.raises(CapabilityError) as error:
        Requirement.parse(text)
    assert told in str(error.value)


@given(st.text(alphabet='ab_{}=<>!, 19.x', max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert Requirement.parse(str(Requirement.parse(text))) == Requirement.parse(text)
    except CapabilityError as error:
        assert str(error)


@pytest.mark.parametrize('text, offers, missing', [
    ('video_capture', CAMERA, ''),
    ('video_capture{width>=1280, fps>=30}', CAMERA, ''),
    ('serial{baud=115200}', PORT, ''), ('serial{baud>9600}', PORT, ''),
    ('serial{baud=57600}', PORT, 'serial{baud=57600}: baud is 9600 or 115200'),
    ('imu', CAMERA, 'imu: not offered'),
    ('serial{protocol=nmea}', PORT, 'serial{protocol=nmea}: protocol is not told')])
def test_an_offer_meets_a_requirement_or_what_is_missing_is_said(
        text: str, offers: tuple[Offer, ...], missing: str) -> None:
    assert Requirement.parse(text).missing(offers) == missing


def test_one_mode_must_meet_all_constraints() -> None:
    told = Requirement.parse('video_capture{width>=1280, fps>=60}').missing(CAMERA)
    assert told == 'video_capture{width>=1280, fps>=60}: fps is 30 or 60'


@pytest.mark.parametrize('attributes', [{'width': 'wide'}, {'width': float('nan')}, {'width': True},
                                        {'colour': 'red'}, {'baud': (9600, 'x')}, {'removable': 'yes'}])
def test_an_unsound_offer_is_refused(attributes: dict[str, object]) -> None:
    with pytest.raises(CapabilityError):
        Offer.of('thing', **attributes)  # type: ignore[arg-type]


def test_the_best_device_comes_first_and_says_why() -> None:
    devices = [Candidate('plain', CAMERA[1:], 0.9), Candidate('sharp', CAMERA, 0.9),
               Candidate('unsure', CAMERA, 0.4), Candidate('port', PORT, 1.0)]
    found, nearest = negotiate([Requirement.parse('video_capture')],
                               [Requirement.parse('video_capture{width>=1280}')], devices)
    assert [match.id for match in found] == ['sharp', 'plain', 'unsure']
    assert [match.score for match in found] == pytest.approx([0.9, 0.45, 0.4])
    assert found[1].explanation == ('trust 0.90, 0 of 1 preferences met '
                                    '(video_capture{width>=1280}: width is 640)')
    assert nearest is None


def test_what_is_missing_is_told_of_the_nearest_device() -> None:
    required = [Requirement.parse('video_capture{fps>=120}'), Requirement.parse('video_capture')]
    found, nearest = negotiate(required, [], [Candidate('port', PORT, 1.0), Candidate('camera', CAMERA, 0.9)])
    assert found == []
    assert nearest is not None
    assert nearest.id == 'camera'
    assert nearest.missing == ('video_capture{fps>=120}: fps is 30 or 60',)


def test_without_devices_nothing_is_near() -> None:
    assert negotiate([Requirement.parse('imu')], [], []) == ([], None)


def test_equal_scores_go_by_id() -> None:
    found, _ = negotiate([], [], [Candidate('b', PORT, 0.5), Candidate('a', PORT, 0.5)])
    assert [match.id for match in found] == ['a', 'b']
