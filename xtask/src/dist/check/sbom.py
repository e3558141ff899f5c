"""Validates an SBOM against the schema of its format."""
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read())
assert not error, error
print("SBOM: valid CycloneDX 1.5")
