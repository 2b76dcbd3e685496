"""Which people of the portraits training never sees, in any picture or skin of theirs."""

import numpy as np

HELD_OUT_EVERY = 10  # of the sorted ids: kept from training, for `eval`
LEAST_NATIVE = 100.0  # pixels across the original crop under which a portrait teaches nothing


def held_out_ids(annotations: np.lib.npyio.NpzFile) -> frozenset[str]:
    """Ids of every picture of those people of whom one is held out."""
    ids, people = annotations["id"].astype(str), annotations["identity"]
    held = people[np.argsort(ids)[::HELD_OUT_EVERY]]
    return frozenset(ids[np.isin(people, held)].tolist())


def training_ids(annotations: np.lib.npyio.NpzFile) -> list[str]:
    """Sorted ids that training may use: of nobody held out, and no thumbnails."""
    held = held_out_ids(annotations)
    good = annotations["id"].astype(str)[annotations["native_px"] >= LEAST_NATIVE]
    return sorted(name for name in good.tolist() if name not in held)
