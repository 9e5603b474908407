"""F6: readers of a store that is replaced under them see one whole version at a time."""

from __future__ import annotations

import pytest


@pytest.mark.counts(1, 1, 20)
def test_readers_while_a_writer_replaces_the_store(site, n):
    stores = [str(path) for path in site.versions]
    versions = {path: site.start("describe", target=path).answer()["result"] for path in stores}
    assert versions[stores[0]] != versions[stores[1]]
    for number in range(n):
        site.put_old()
        end = site.target.with_name(f"end-{number}")
        readers = [
            site.start("read_until", target=str(site.target), end=str(end), versions=versions)
            for _ in range(4)
        ]
        writer = site.start(
            "replace_again_and_again", target=str(site.target), stores=stores, times=50
        )
        assert writer.answer() == {"result": "done"}
        end.touch()
        seen = dict.fromkeys(stores, 0)
        for reader in readers:
            answer = reader.answer()
            assert "result" in answer, answer
            for path, times in answer["result"]["seen"].items():
                seen[path] += times
        assert all(seen.values()), "readers must have met both versions"
        end.unlink()
