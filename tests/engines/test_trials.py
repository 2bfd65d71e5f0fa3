"""What the trial of a new engine means."""

from app.entities.engines import InstructionSet
from app.use_cases.engines.trials import Trial, verdict

NATIVE, AVX512, AVX2 = InstructionSet.NATIVE, InstructionSet.AVX512, InstructionSet.AVX2
GOOD, CRASHED = Trial("the CPU"), Trial("the CPU", "ended by SIGILL", crashed=True)
FIRST, SECOND = Trial("CUDA0 (RTX 4090)"), Trial("CUDA1 (GTX 1080)", "no kernel image")


def test_an_engine_that_answers_everywhere_is_used():
    assert verdict(GOOD, [FIRST], [NATIVE]).is_usable
    assert verdict(GOOD, [], [NATIVE]).is_usable, "of a machine without a card"


def test_a_crash_on_the_cpu_means_the_next_narrower_instruction_set():
    result = verdict(CRASHED, [], [NATIVE, AVX512, AVX2])
    assert (result.is_usable, result.narrower) == (False, AVX512)
    assert result.text == "built for native, it fails on the CPU: ended by SIGILL"


def test_a_crash_with_the_narrowest_set_is_final():
    result = verdict(CRASHED, [], [AVX2])
    assert (result.is_usable, result.narrower) == (False, None)


def test_an_error_on_the_cpu_is_not_one_of_instructions():
    assert verdict(Trial("the CPU", "exit status 1"), [], [NATIVE, AVX2]).narrower is None


def test_a_card_that_fails_is_named_and_only_all_of_them_refuse_the_engine():
    result = verdict(GOOD, [FIRST, SECOND], [NATIVE, AVX2])
    assert (result.is_usable, result.text) == (True, "it fails on CUDA1 (GTX 1080): no kernel image")
    assert not verdict(GOOD, [SECOND], [NATIVE, AVX2]).is_usable
    assert verdict(GOOD, [SECOND], [NATIVE, AVX2]).narrower is None, "fewer CPU instructions do not help a card"
