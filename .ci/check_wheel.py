"""Looks into a wheel: everything that users need is in it, and nothing that only developers do."""

import sys
import zipfile
from pathlib import Path

LIMIT = 12 * 10**6
"""Bytes that the sample may have."""

wheel = zipfile.ZipFile(sys.argv[1])
names = wheel.namelist()
tree = Path(__file__).resolve().parent.parent / "loratools"

source = {
    f"loratools/{path.relative_to(tree)}"
    for path in tree.rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}
missing = sorted(source - set(names))
assert not missing, f"not in the wheel: {missing}"

foreign = [name for name in names if not name.startswith(("loratools/", "loratools-"))]
assert not foreign, f"should not be in the wheel: {foreign}"
assert not [name for name in names if "test" in name.split("/")[0]], "tests are in the wheel"
assert "loratools/py.typed" in names
assert any(name.endswith("licenses/LICENSE") for name in names), "no licence"

sample = [info for info in wheel.infolist() if info.filename.startswith("loratools/sample/")]
size = sum(info.file_size for info in sample)
for folder in ("base", "tuned", "lora-r4", "lora-r8", "lora-r8-seed2", "lora-r16", "lora-r64"):
    held = [info for info in sample if info.filename.startswith(f"loratools/sample/{folder}/")]
    assert any(info.filename.endswith(".safetensors") for info in held), f"no weights of {folder}"
assert size <= LIMIT, f"the sample has {size:,} bytes"
print(f"{Path(sys.argv[1]).name}: {len(names)} files; {len(sample)} of the sample, {size:,} bytes")
