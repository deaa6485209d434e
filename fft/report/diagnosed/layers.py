"""The tables of a diagnosis: the layers, and the steps of the proposal."""

from typing import Any

from fft.core.naming import counted
from fft.report.diagnosed.figures import figure, share, small, turned
from fft.report.tables import NONE, Column, percent, score

PARTS = (
    Column("layer", lambda row: row["name"], number=False),
    Column("moved", lambda row: NONE if row["distance"] is None else percent(100 * row["distance"])),
    Column("score back", lambda row: figure(row["put_back"])),
    Column("loss back", lambda row: figure(turned(row["put_back_rise"]))),
    Column("score lost alone", lambda row: figure(turned(row["alone"]))),
    Column("loss alone", lambda row: figure(row["alone_rise"])),
    Column("predicted", lambda row: small(row["predicted"])),
)
STEPS = (
    Column("put back", lambda step: step["layer"], number=False),
    Column("of what was lost is back", lambda step: share(step["back"])),
    Column("loss", lambda step: score(step["loss"])),
)


def caption(record: dict[str, Any]) -> str:
    """Return the meaning of the columns in the table of layers."""
    change, fisher = record["change"], record["fisher"]
    return (
        f"back: original {change['metric']} and loss on {counted(change['n'], 'test row')} with the base's "
        "weights in that layer and the tuned ones elsewhere; alone: the base with that layer tuned; ±: half the "
        "paired 95 % interval; "
        f"moved: ‖θ − θ*‖ / ‖θ*‖; predicted: ½ (θ − θ*)ᵀ F (θ − θ*), nats, F of the base ({fisher['estimator']}, "
        f"{counted(fisher['examples'], 'training row')})"
    )


def rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the table: the layers, the roles within all blocks, and everything together."""
    together = {
        "name": "everything",
        "distance": None,
        "put_back": turned(record["change"]),
        "put_back_rise": turned(record["rise"]),
        "alone": record["change"],
        "alone_rise": record["rise"],
        "predicted": record["predicted"],
    }
    roles = [{**role, "name": f"all {role['name']}"} for role in record["roles"]]
    return [*record["layers"], *roles, together]
