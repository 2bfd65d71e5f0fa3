"""Which CUDA toolkit fits driver and cards."""

import pytest

from app.use_cases.engines.cuda import PACKAGED, NoToolkit, Toolkit, cuda_target, runs_on

PASCAL, VOLTA, TURING, AMPERE, ADA, HOPPER, BLACKWELL = (6, 1), (7, 0), (7, 5), (8, 6), (8, 9), (9, 0), (12, 0)
OF_12 = Toolkit("/usr/local/cuda-12.9", (12, 9), frozenset((PASCAL, VOLTA, TURING, (8, 0), AMPERE, ADA, HOPPER)))
OF_13 = Toolkit("/usr/local/cuda-13.0", (13, 0), PACKAGED.codes)
OF_11 = Toolkit("/usr/local/cuda-11.7", (11, 7), frozenset((PASCAL, VOLTA, TURING, (8, 0), AMPERE)))


def test_the_systems_toolkit_is_used_before_nvidias_packages():
    target = cuda_target([OF_13], (13, 0), [ADA])
    assert (target.toolkit, target.architectures, target.left_out) == (OF_13, ("8.9",), ())
    assert cuda_target([], (13, 0), [ADA]).toolkit == PACKAGED


def test_only_the_architectures_of_the_cards_here_are_built_each_once():
    assert cuda_target([], (13, 1), [HOPPER, ADA, ADA]).architectures == ("8.9", "9.0")


def test_a_driver_runs_every_toolkit_of_its_major_version_and_none_of_a_later_one():
    assert cuda_target([OF_13, OF_12], (13, 0), [ADA]).toolkit == OF_13
    newer = Toolkit("/opt/cuda", (13, 3), PACKAGED.codes)
    assert cuda_target([newer], (13, 0), [ADA]).toolkit == newer
    assert cuda_target([OF_13, OF_12], (12, 2), [ADA]).toolkit == OF_12


def test_an_unknown_driver_excludes_no_toolkit():
    assert cuda_target([OF_13], None, [ADA]).toolkit == OF_13


@pytest.mark.parametrize("card", [PASCAL, VOLTA])
def test_a_card_older_than_turing_is_built_for_with_cuda_12(card):
    assert cuda_target([OF_13, OF_12], (13, 0), [card]).toolkit == OF_12
    with pytest.raises(NoToolkit, match=r"no code for compute capability .* in CUDA 13.0, CUDA 13.0: .*CUDA 12"):
        cuda_target([OF_13], (13, 0), [card])


def test_of_two_cards_the_toolkit_for_both_is_preferred_and_one_that_is_left_out_is_named():
    assert cuda_target([OF_13, OF_12], (13, 0), [PASCAL, ADA]).toolkit == OF_12
    target = cuda_target([OF_13], (13, 0), [PASCAL, ADA])
    assert (target.architectures, target.left_out) == (("8.9",), ("6.1",))


def test_a_toolkit_older_than_the_card_builds_for_an_earlier_one_of_its_family():
    assert cuda_target([OF_11], (12, 4), [ADA]).architectures == ("8.6",)
    assert runs_on(["8.6"], ADA)
    assert not runs_on(["8.9"], AMPERE)
    assert not runs_on(["8.9"], HOPPER)


def test_code_of_blackwell_cards_runs_on_the_very_same_alone():
    only_120 = Toolkit("/opt/cuda", (12, 8), frozenset((BLACKWELL, HOPPER)))
    assert cuda_target([only_120], (13, 0), [(12, 1)]).toolkit == PACKAGED
    assert not runs_on(["12.0"], (12, 1))


def test_a_driver_without_any_toolkit_says_to_update_it_or_to_install_an_earlier_one():
    with pytest.raises(NoToolkit, match=r"supports CUDA 12.4.*update the driver to 580.*or install .* CUDA 12 "):
        cuda_target([], (12, 4), [ADA])


def test_cards_that_cannot_be_read_are_no_reason_to_guess():
    with pytest.raises(NoToolkit, match="nvidia-smi"):
        cuda_target([OF_13], (13, 0), [])
