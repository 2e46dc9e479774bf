"""LightGBM's text of a residual ensemble, turned into the exact tables that the compiled step loop looks up."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...arrays import F64, I64
from ...simulator.step_time import BINNED, GROUP_SIZE, RESIDUAL_GROUPS


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree of an ensemble. A child >= 0 is an inner node, a child < 0 the leaf ~child, as LightGBM writes it."""

    split_feature: I64
    threshold: F64
    left_child: I64
    right_child: I64
    leaf_value: F64


@dataclass(frozen=True, slots=True)
class LeafBox:
    """The box of feature values that ends in one leaf: low < x <= high for each constrained feature."""

    bounds: dict[int, tuple[float, float]]
    value: float


def parse_trees(text: str) -> list[Tree]:
    """Trees of `Booster.model_to_string()`. Raises ValueError for other text or other kinds of splits."""
    if not text.startswith("tree\n") or "end of trees" not in text:
        raise ValueError("not a LightGBM model, or cut short")
    return [_parse_tree(block) for block in text.split("end of trees")[0].split("\nTree=")[1:]]


def _parse_tree(block: str) -> Tree:
    fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
    if fields.get("num_cat", "0") != "0" or fields.get("is_linear", "0") != "0":
        raise ValueError("categorical splits or linear leaves")
    try:
        leaves = _numbers(fields["leaf_value"])
        if int(fields["num_leaves"]) == 1:
            nowhere = np.empty(0, np.int64)
            return Tree(nowhere, np.empty(0), nowhere, nowhere, leaves)
        tree = Tree(
            _numbers(fields["split_feature"]).astype(np.int64),
            _numbers(fields["threshold"]),
            _numbers(fields["left_child"]).astype(np.int64),
            _numbers(fields["right_child"]).astype(np.int64),
            leaves,
        )
    except KeyError as error:
        raise ValueError(f"a tree without {error.args[0]}") from error
    _check(tree, int(fields["num_leaves"]))
    return tree


def _numbers(text: str) -> F64:
    return np.array(text.split(), dtype=np.float64)


def _check(tree: Tree, leaves: int) -> None:
    inner = (tree.split_feature, tree.threshold, tree.left_child, tree.right_child)
    children = np.concatenate([tree.left_child, tree.right_child])
    sound = all(len(part) == leaves - 1 for part in inner) and len(tree.leaf_value) == leaves
    # Each inner node but the root and each leaf is the child of exactly one node: anything else could loop.
    if not sound or sorted(children) != [*range(-leaves, 0), *range(1, leaves - 1)]:
        raise ValueError("a tree whose nodes do not fit together")
    if tree.split_feature.min() < 0 or tree.split_feature.max() >= BINNED or not np.isfinite(tree.leaf_value).all():
        raise ValueError("a tree on unknown features or with endless values")


def leaf_boxes(tree: Tree) -> Iterator[LeafBox]:
    """The leaves of a tree as boxes; together they fill the whole space."""
    if len(tree.split_feature) == 0:
        yield LeafBox({}, float(tree.leaf_value[0]))
        return
    todo: list[tuple[int, dict[int, tuple[float, float]]]] = [(0, {})]
    while todo:
        node, bounds = todo.pop()
        if node < 0:
            yield LeafBox(bounds, float(tree.leaf_value[~node]))
            continue
        feature, threshold = int(tree.split_feature[node]), float(tree.threshold[node])
        low, high = bounds.get(feature, (-np.inf, np.inf))
        todo.append((int(tree.left_child[node]), {**bounds, feature: (low, min(high, threshold))}))
        todo.append((int(tree.right_child[node]), {**bounds, feature: (max(low, threshold), high)}))


@lru_cache(maxsize=4)  # every configuration that is simulated asks for those of its profile
def residual_tables(text: str) -> tuple[F64, list[F64]]:
    """Edges and tables of the ensemble in `text`, as `simulator.step_time.pack_model` takes them.

    Raises ValueError for text that is no such ensemble, or one in which a leaf depends on more than one group.
    """
    trees = parse_trees(text)
    edges = [_edges(trees, feature) for feature in range(BINNED)]
    tables = [np.zeros([len(edges[feature]) + 1 for feature in group]) for group in RESIDUAL_GROUPS]
    for tree in trees:
        for box in leaf_boxes(tree):
            group = _group_of(box)
            cells = tuple(_bins(box, feature, edges[feature]) for feature in RESIDUAL_GROUPS[group])
            tables[group][cells] += box.value
    return _padded(edges), tables


def _edges(trees: list[Tree], feature: int) -> F64:
    used = [tree.threshold[tree.split_feature == feature] for tree in trees]
    return np.unique(np.concatenate(used)) if used else np.empty(0)


def _padded(edges: list[F64]) -> F64:
    width = max(1, *(len(one) for one in edges))
    return np.array([np.pad(one, (0, width - len(one)), constant_values=np.inf) for one in edges])


def _group_of(box: LeafBox) -> int:
    for index, group in enumerate(RESIDUAL_GROUPS):
        if set(box.bounds) <= set(group):
            return index
    raise ValueError(f"a leaf on features {sorted(box.bounds)}, which no group of {GROUP_SIZE} holds")


def _bins(box: LeafBox, feature: int, edges: F64) -> slice:
    """Bins of `feature` inside the box: bin b holds edges[b - 1] < x <= edges[b]."""
    low, high = box.bounds.get(feature, (-np.inf, np.inf))
    first = 0 if low == -np.inf else int(np.searchsorted(edges, low)) + 1
    last = len(edges) if high == np.inf else int(np.searchsorted(edges, high))
    return slice(first, last + 1)
