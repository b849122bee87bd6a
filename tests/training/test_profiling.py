"""The profile: every instruction's time goes to the scope that the code names."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddarts_jax.training import profiling

_names = st.from_regex(r"[a-z_]+_[0-9]x[0-9]", fullmatch=True)


@pytest.mark.parametrize(
    "op_name, scope",
    [
        ("jit(chunk)/while/body/closed_call/jit(step)/weight_step/min", "weight_step"),
        (
            "jit(chunk)/while/body/closed_call/jit(step)/weight_step/transpose(jvp(cell/1))/edges/while"
            "/body/closed_call/checkpoint/rematted_computation/jit(_mix)/sep_conv_5x5/jit(_sum)/slice",
            "weight_step/cell/1/edges/sep_conv_5x5",
        ),
        (
            "jit(f)/step/jvp(marginal_contributions)/vmap(cell/1)/edges/jit(_mix)",
            "step/marginal_contributions/cell/1/edges",
        ),
        ("jit(f)/step/vmap(transpose(jvp(step)))/jvp()/checkpoint/cell/1/add", "step/cell/1"),
        ("jit(f)/step/transpose(jvp(jit(_take)))/add", "step"),
        ("jit(f)/f.<locals>.g/while", "(no scope)"),
        ("step/cell/1/add;step/mul", "step/cell/1"),
        ("jit(f)/cell/3/while/body/eval_jaxpr/tanh", "cell/3"),
    ],
)
def test_a_scope_is_what_the_code_named(op_name, scope):
    """Calls, loops, transformations and the primitive are left out."""
    assert profiling.scope_of(op_name) == scope


@given(names=st.lists(_names, min_size=1, max_size=4, unique=True), data=st.data())
def test_transformations_do_not_change_the_scope(names, data):
    """However JAX wraps the scopes of an instruction, they are the same."""
    wrappers = st.sampled_from(["{}", "jvp({})", "transpose(jvp({}))", "vmap({})", "while/body/{}"])
    wrapped = [data.draw(wrappers).format(name) for name in names]
    assert profiling.scope_of("/".join(["jit(f)", *wrapped, "add"])) == "/".join(names)


def test_the_time_of_a_traced_program(tmp_path):
    """The scope that works most comes first; work in a loop counts, and the loop not again."""

    @jax.jit
    def work(x):
        with jax.named_scope("light"):
            y = jnp.sin(x).sum()
        with jax.named_scope("cell/3"):
            x = jax.lax.fori_loop(0, 20, lambda _, x: jnp.tanh(x @ x), x)
        return x, y

    x = jnp.ones((300, 300))
    compiled = work.lower(x).compile()
    jax.block_until_ready(compiled(x))
    with profiling.trace(tmp_path):
        jax.block_until_ready([compiled(x) for _ in range(3)])
    seconds = profiling.by_scope(tmp_path, compiled.as_text())
    assert next(iter(seconds)) == "cell/3" and "light" in seconds
    lines = profiling.table(seconds, steps=3, rows=1).splitlines()
    assert len(lines) == 2 and lines[1].endswith("  cell/3")
    assert float(lines[1].split("%")[0]) > 50
