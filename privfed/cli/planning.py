"""`privfed plan`: what a series of releases would cost and carry, before anything is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from privfed.cli.shell import print_json, print_text

if TYPE_CHECKING:
    from privfed.plan.outlook import Preview
    from privfed_accounting import Sampling

__all__ = ["plan"]


def plan(
    epsilon: Annotated[float, typer.Option(help="Budget of all releases together.")] = 4.0,
    delta: Annotated[float, typer.Option(help="Delta of the budget.")] = 1e-6,
    rounds: Annotated[int, typer.Option(help="Releases that spend it.")] = 100,
    clients: Annotated[int, typer.Option(help="Clients in the federation.")] = 50,
    dropout: Annotated[float, typer.Option(help="Fraction of them that may be lost, 0 or more and below 1.")] = 0.0,
    colluders: Annotated[int, typer.Option(help="Show the view of the server with so many clients.")] = 0,
    dimension: Annotated[int, typer.Option(help="Coordinates of each client's vector.")] = 1000,
    bits: Annotated[
        int | None, typer.Option(help="Width of the ring, 8 to 64.", show_default="chosen by the plan")
    ] = None,
    noise: Annotated[str, typer.Option(help="auto, discrete_gaussian or skellam.")] = "auto",
    drop_outs: Annotated[
        str, typer.Option(help="provision (noise for the fewest survivors) or exact (surplus is given back).")
    ] = "provision",
    protection: Annotated[
        str, typer.Option(help="secure_aggregation, or to compare with: trusted, local, central.")
    ] = "secure_aggregation",
    unit: Annotated[str, typer.Option(help="What is protected: record or client.")] = "client",
    view: Annotated[
        str, typer.Option(help="Adversary that the budget guards: released, server, client, colluders(t), unmasked.")
    ] = "server",
    max_records: Annotated[int, typer.Option(help="Unit record: most rows that a client holds.")] = 1_000_000,
    sample_records: Annotated[
        float | None,
        typer.Option(metavar="RATE", help="Each client draws its rows with this probability.", show_default="all"),
    ] = None,
    sample_clients: Annotated[
        float | None,
        typer.Option(
            metavar="RATE", help="The coordinator draws each client with this probability.", show_default="all"
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show what a budget buys, before anything runs.

    Noise, bits, bytes, and epsilon for every adversary. Nothing is sent and nothing is charged.
    """
    from privfed.plan import preview

    choices: dict[str, Any] = {"noise": noise, "drop_outs": drop_outs, "protection": protection, "unit": unit}
    outlook = preview(
        epsilon=epsilon,
        delta=delta,
        rounds=rounds,
        clients=clients,
        dropout=dropout,
        colluders=colluders,
        dimension=dimension,
        bits=bits,
        view=view,
        max_records=max_records,
        sampling=_sampling(sample_records, sample_clients),
        **choices,
    )
    if json:
        print_json(outlook.as_dict())
    else:
        print_text(_text(outlook))


def _sampling(records: float | None, clients: float | None) -> Sampling | None:
    from privfed.errors import UsageError
    from privfed_accounting import Sampling

    if records is not None and clients is not None:
        raise UsageError("--sample-records and --sample-clients were both given: choose one")
    if records is not None:
        return Sampling.poisson(records, unit="record")
    return None if clients is None else Sampling.poisson(clients, unit="client")


def _text(outlook: Preview) -> str:
    """Return the plan as lines: what it is, the numbers, epsilon per view, and why."""
    from privfed.report.scales import format_bytes, format_epsilon, format_number

    terms = outlook.plan.terms
    rows = [
        ("budget", f"epsilon {outlook.epsilon:g}, delta {outlook.delta:g}, unit {outlook.unit}, view {outlook.view}"),
        ("releases", f"{outlook.rounds:,}"),
        ("clients", f"{terms.planned:,}, of which {terms.guaranteed:,} have to survive"),
        ("vector", f"{outlook.plan.dimension:,} coordinates of {outlook.plan.bits} bits"),
        ("noise", f"{format_number(terms.noise_multiplier)} times what one {outlook.unit} can move the sum"),
        ("", f"on the mean of norm-1 vectors: {format_number(outlook.mean_noise_std)} a coordinate"),
        ("traffic", f"{format_bytes(outlook.bytes_per_client)} from each client in each release,"),
        ("", f"{format_bytes(outlook.total_bytes)} from all of them in all releases"),
    ]
    lines = [f"{name:<10}{text}" for name, text in rows]
    lines += ["", f"{'epsilon, by who looks':<28}{'fewest survive':>16}{'all survive':>16}"]
    for view, fewest in outlook.epsilons.items():
        everybody = outlook.epsilons_if_nobody_is_lost[view]
        lines.append(f"{view:<28}{format_epsilon(fewest):>16}{format_epsilon(everybody):>16}")
    return "\n".join([*lines, "", *outlook.explain()]) + "\n"
