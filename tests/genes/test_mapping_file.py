from __future__ import annotations

import pandas as pd
import pytest

from stformat.errors import GenePanelError
from stformat.genes.mapping_file import read_vocabulary

PAIRS = {"ERBB2": "ENSG00000141736", "CD4": "ENSG00000010610"}
FRAME = pd.DataFrame(
    {"other": [1, 2, 3], "gene_id": [*PAIRS.values(), None], "symbol": [*PAIRS, "LOST"]}
)


def test_csv_parquet_and_dict_say_the_same(tmp_path):
    FRAME.to_csv(tmp_path / "genes.csv", index=False)
    FRAME.to_parquet(tmp_path / "genes.parquet", index=False)
    expected = read_vocabulary(PAIRS, species="Homo sapiens").to_json()
    for name in ("genes.csv", "genes.parquet"):
        assert read_vocabulary(tmp_path / name, species="Homo sapiens").to_json() == expected


def test_symbols_that_look_like_numbers_stay_text(tmp_path):
    (tmp_path / "genes.csv").write_text("symbol,gene_id\n01,ENSG00000000001\n")
    assert dict(read_vocabulary(tmp_path / "genes.csv").ids) == {"01": "ENSG00000000001"}


@pytest.mark.parametrize("content", [b"symbol,id\nA,1\n", b"", b"symbol,gene_id\nA\n"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "genes.csv").write_bytes(content)
    with pytest.raises(GenePanelError, match="columns symbol and gene_id"):
        read_vocabulary(tmp_path / "genes.csv")


def test_missing_and_damaged_files_are_refused(tmp_path):
    (tmp_path / "genes.parquet").write_bytes(b"PAR1 no more")
    FRAME.drop(columns="symbol").to_parquet(tmp_path / "one.parquet")
    for name in ("none.csv", "genes.parquet", "one.parquet"):
        with pytest.raises(GenePanelError, match="columns symbol and gene_id"):
            read_vocabulary(tmp_path / name)
