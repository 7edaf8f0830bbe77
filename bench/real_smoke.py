"""Every step of ``bench.real_backbone`` once: which attention works, right numbers, and speed."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bench.real_decoding import Decoder
from bench.real_runs import Bench
from bench.real_specs import Place, Spec
from msrrec.reasoning.encoding import fit_prompt
from msrrec.training.examples import make_query
from msrrec.training.learner import Learner
from msrrec.training.model import add_lora, load_base, multiplies_in_bfloat16


def check(place: Place, dataset: str) -> str:
    """Print what works and how fast; the fastest attention that works.

    Raises:
        ValueError: If the decoder disagrees with transformers.
    """
    bench = Bench(place)
    users, steps = (48, 3) if bench.on_gpu else (3, 1)
    spec = Spec(dataset, "chain", "candidates_first", 0, 1e-3, users=users, max_steps=steps)
    begin = time.monotonic()
    examples = bench.examples(spec)
    lengths = examples.lengths
    print(
        f"{len(examples)} examples in {time.monotonic() - begin:.1f} s, "
        f"{lengths.mean():.0f} tokens on average, {lengths.max()} at most"
    )
    kernel = choose_kernel(bench, spec, examples)
    check_decoder(bench, spec)
    for arm in ("chain", "facts"):
        fitting = Bench(replace(place, attention=kernel))
        try:
            answers = fitting.run(replace(spec, arm=arm))
            print(arm, answers.facts)
            for record in answers.outputs[:2] + answers.outputs[-2:]:
                print(repr(record["text"]))
        except Exception as error:  # reported, as the others may work
            print(f"{arm} failed: {error!r}")
    return kernel


def choose_kernel(bench: Bench, spec: Spec, examples: Any) -> str:
    """The fastest kernel whose loss and gradient agree with those of the first that works.

    It is the first of all where none works.
    """
    kernels = ("sdpa", "varlen") if bench.on_gpu else ("blocked",)
    expected, speeds = None, {}
    for kernel in kernels:
        try:
            loss, gradient, speed = step(bench, spec, examples, kernel)
        except Exception as error:  # a kernel may lack anything here
            print(f"attention {kernel} does not work: {error!r}")
            continue
        print(f"{kernel}: loss {loss:.4f}, gradient {gradient:.4f}, {speed:,.0f} tokens/s")
        bench.free()
        if expected is None:
            expected = loss, gradient
        if np.allclose((loss, gradient), expected, rtol=0.1):
            speeds[kernel] = speed
    found = max(speeds, key=speeds.__getitem__, default=kernels[0])
    print(f"attention {found} is used")
    return found


def step(bench: Bench, spec: Spec, examples: Any, kernel: str) -> tuple[float, float, float]:
    """Loss and norm of the gradient of a batch, and tokens per second of a few steps."""
    config = bench.settings(spec).train.model_copy(update={"attention": kernel})
    base = load_base(bench.source, "auto", on_gpu=bench.on_gpu)
    in_bfloat16 = multiplies_in_bfloat16("auto", bench.device)
    model = add_lora(base, config)
    with torch.no_grad():
        torch.manual_seed(0)
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.005)
    learner = Learner(model, config, bfloat16=in_bfloat16, device=bench.device)
    print("fast layers:", learner.head is not None, "packs:", learner.packs)
    batch = np.arange(32 if bench.on_gpu else 2)
    loss = learner.sum_gradients(examples, batch).loss
    gradient = float(torch.stack([g.float().norm() for g in learner.gradients]).norm())
    timed = 5 if bench.on_gpu else 1
    seconds = timer(lambda: learner.sum_gradients(examples, batch), timed, bench.on_gpu)
    tokens = int(examples.lengths[batch].sum())
    if bench.on_gpu:
        print(f"peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB for {tokens} tokens")
    return loss, gradient, tokens / seconds


def check_decoder(bench: Bench, spec: Spec) -> None:
    """Compare log-probabilities with transformers' and with the decoder's own cache."""
    model = load_base(bench.source, "auto", on_gpu=bench.on_gpu).to(bench.device)
    dtype = next(model.parameters()).dtype
    decoder = Decoder(model, bench.device, dtype, bench.tokenizer.eos_token_id, 1024)
    dataset, _ = bench.data(spec.dataset)
    count = 384 if bench.on_gpu else 3
    queries = [make_query(dataset, e) for e in dataset.examples("validation", count)]
    form = bench.form(spec)
    prompts = [fit_prompt(bench.tokenizer, "user", q, form, 800)[0] for q in queries]
    new = 64 if bench.on_gpu else 8
    begin = time.monotonic()
    generations = decoder.sample(prompts, new, 0.7, 0, bench.place.slots)
    print(f"{len(prompts)} outputs of at most {new} tokens in {time.monotonic() - begin:.1f} s")
    begin = time.monotonic()
    texts = [[*g.token_ids] or [0] for g in generations]
    scores = decoder.score(prompts, [[text, text[:1], text[:3]] for text in texts])
    print(f"their scores in {time.monotonic() - begin:.1f} s")
    gaps = []
    for prompt, text, generation, found in list(
        zip(prompts, texts, generations, scores, strict=True)
    )[:3]:
        ids = torch.tensor([[*prompt, *text]], device=bench.device)
        with torch.inference_mode():
            logprobs = model(ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        places = torch.arange(len(text)), torch.tensor(text)
        expected = logprobs.cpu()[places]
        sampled = sum(generation.token_logprobs)
        print(
            f"transformers {float(expected.sum()):.3f}, scored {found[0]:.3f}, drawn {sampled:.3f}"
        )
        gaps += [abs(float(expected.sum()) - found[0]), abs(sampled - found[0])]
        gaps.append(abs(float(expected[0]) - found[1]))
    if max(gaps) > (6.0 if bench.on_gpu else 0.01):
        raise ValueError(f"the decoder is off by {max(gaps):.3f} nats")


def timer(work: Callable[[], object], times: int, on_gpu: bool) -> float:
    """Mean seconds of a call after a first one."""
    work()
    if on_gpu:
        torch.cuda.synchronize()
    begin = time.monotonic()
    for _ in range(times):
        work()
    if on_gpu:
        torch.cuda.synchronize()
    return (time.monotonic() - begin) / times
