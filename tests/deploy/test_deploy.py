"""The deployment files: well-formed, valid by the schemas of what reads them, and in agreement with octavo and each other.

Kubernetes' own kinds are judged by its published schemas, strictly (package kubernetes-validate). What has no schema on
PyPI, the PodMonitor and compose files, is judged by schemas of the fields used, with no others allowed."""
import copy
import os
import pathlib
import re
import subprocess
import sys

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
BINARY = pathlib.Path(os.environ.get("OCTAVO_BIN", ROOT / "build/release/octavo")).absolute()
COMPOSES = [DOCKER / "compose.yaml", DOCKER / "compose.cuda.yaml"]
MANIFESTS = sorted((DOCKER / "kubernetes").glob("*.yaml"))
DOCKERFILES = [DOCKER / "Dockerfile", DOCKER / "Dockerfile.cuda"]
YAMLS = [*COMPOSES, *MANIFESTS, DOCKER / "prometheus.yml"]
KUBERNETES = "1.31"
LINT = "{extends: default, rules: {line-length: {max: 130}, document-start: disable, comments: {min-spaces-from-content: 1}}}"


def strict(properties, required=()):
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


TEXT, TEXTS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
DURATION = {"type": "string", "pattern": r"^(\d+h)?(\d+m)?(\d+s)?$", "minLength": 2}
LABELS = {"type": "object", "additionalProperties": TEXT}
HEALTHCHECK = strict({"test": TEXTS, "interval": DURATION, "timeout": DURATION, "start_period": DURATION,
                      "retries": {"type": "integer"}})
DEVICE = strict({"driver": TEXT, "count": {"type": "integer"}, "capabilities": TEXTS}, ["capabilities"])
SERVICE = strict({
    "build": strict({"context": TEXT, "dockerfile": TEXT}), "image": TEXT, "command": TEXTS, "environment": LABELS,
    "volumes": TEXTS, "ports": TEXTS, "healthcheck": HEALTHCHECK, "read_only": {"type": "boolean"}, "cap_drop": TEXTS,
    "security_opt": TEXTS, "stop_grace_period": DURATION,
    "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
    "depends_on": {"type": "object", "additionalProperties": strict(
        {"condition": {"enum": ["service_started", "service_healthy", "service_completed_successfully"]}}, ["condition"])},
    "deploy": strict({"resources": strict({"reservations": strict({"devices": {"type": "array", "items": DEVICE}})})}),
}, ["image"])
COMPOSE = strict({"services": {"type": "object", "additionalProperties": SERVICE},
                  "volumes": {"type": "object", "additionalProperties": {"type": "null"}}}, ["services"])
PODMONITOR = strict({
    "apiVersion": {"const": "monitoring.coreos.com/v1"}, "kind": {"const": "PodMonitor"},
    "metadata": strict({"name": TEXT, "labels": LABELS}, ["name"]),
    "spec": strict({"selector": strict({"matchLabels": LABELS}, ["matchLabels"]),
                    "podMetricsEndpoints": {"type": "array", "minItems": 1, "items": strict(
                        {"port": TEXT, "path": TEXT, "interval": DURATION}, ["port"])}}, ["selector", "podMetricsEndpoints"]),
}, ["apiVersion", "kind", "metadata", "spec"])


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def of_kind(kind):
    found = [document for path in MANIFESTS for document in documents(path) if document["kind"] == kind]
    assert found, f"no {kind}"
    return found


def deployment():
    return of_kind("Deployment")[0]


def container():
    containers = deployment()["spec"]["template"]["spec"]["containers"]
    assert len(containers) == 1
    return containers[0]


def instructions(path):
    """[(instruction, arguments)] of a Dockerfile, continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", path.read_text()).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def environment_of(path):
    """What ENV of the last stage sets."""
    last = [i for i, (name, _) in enumerate(instructions(path)) if name == "FROM"][-1]
    return dict(pair.split("=", 1) for name, arguments in instructions(path)[last:] if name == "ENV"
                for pair in arguments.split())


@pytest.fixture(scope="module")
def options():
    """{OCTAVO_NAME: default} of `octavo serve --help`."""
    done = subprocess.run([BINARY, "serve", "--help"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = {}
    for entry in re.split(r"(?m)^  (?=-)", done.stdout)[1:]:
        for name in re.findall(r"OCTAVO_[A-Z_]+", entry):
            default = re.search(r"default:?\s+([\w.*-]+)", entry)
            found[name] = default and default[1]
    return found


def test_yamllint():
    done = subprocess.run([sys.executable, "-m", "yamllint", "--strict", "-d", LINT, *YAMLS], capture_output=True, text=True,
                          timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_kubernetes_schemas(path):
    for document in documents(path):
        if document["kind"] == "PodMonitor":
            jsonschema.validate(document, PODMONITOR)
        else:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_the_schemas_refuse_what_is_wrong():
    wrong = copy.deepcopy(deployment())
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)
    wrong = documents(COMPOSES[1])[0]
    wrong["services"]["octavo"]["heathcheck"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, COMPOSE)


@pytest.mark.parametrize("path", COMPOSES, ids=lambda path: path.name)
def test_compose(path, options):
    compose = documents(path)[0]
    jsonschema.validate(compose, COMPOSE)
    service = compose["services"]["octavo"]
    dockerfile = (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).resolve()
    assert dockerfile in DOCKERFILES
    image = environment_of(dockerfile)
    assert set(service["environment"]) <= set(options)
    assert service["ports"] == [f"{image['OCTAVO_PORT']}:{image['OCTAVO_PORT']}"]
    named = {volume.split(":")[0] for volume in service["volumes"] if not volume.startswith((".", "/"))}
    assert named == set(compose["volumes"])
    assert f"octavo:{image['XDG_CACHE_HOME']}/octavo" in service["volumes"]
    drain_ms = int(service["environment"].get("OCTAVO_DRAIN_TIMEOUT_MS") or options["OCTAVO_DRAIN_TIMEOUT_MS"])
    assert int(service["stop_grace_period"].rstrip("s")) * 1000 > drain_ms
    if "healthcheck" in service:
        assert service["healthcheck"]["test"] == ["CMD", "octavo-health"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles(path, options):
    lines, image = instructions(path), environment_of(path)
    names = [name for name, _ in lines]
    assert {name for name in image if name.startswith("OCTAVO_")} <= set(options)
    assert ("EXPOSE", image["OCTAVO_PORT"]) in lines and ("ENTRYPOINT", '["octavo", "serve"]') in lines
    assert names.count("USER") == 1 and not dict(lines)["USER"].startswith(("root", "0"))
    copied = [arguments for name, arguments in lines if name == "COPY" and not arguments.startswith("--from")]
    for arguments in copied:
        assert all((ROOT / source).exists() for source in arguments.split()[:-1]), arguments
    # Every folder that the build knows is there.
    layers = re.search(r"foreach\(layer ([a-z ]+)\)", (ROOT / "CMakeLists.txt").read_text())[1].split()
    assert {f"{layer} {layer}" for layer in layers} <= set(copied)
    # The -dev packages are those that tests/setup.sh installs.
    wanted = re.search(r"debian_build=\(([^)]*)\)", (ROOT / "tests/setup.sh").read_text())[1].split()
    first_run = next(arguments for name, arguments in lines if name == "RUN")
    assert set(wanted) <= set(first_run.split())


def test_deployment_agrees_with_octavo_and_the_image(options):
    dockerfile = DOCKER / "Dockerfile.cuda"
    pod, image, lines = deployment()["spec"]["template"]["spec"], environment_of(dockerfile), dict(instructions(dockerfile))
    port, environment = container()["ports"][0], {entry["name"]: entry.get("value") for entry in container()["env"]}
    assert set(environment) <= set(options)
    assert str(port["containerPort"]) == image["OCTAVO_PORT"]
    drain_s = int(environment["OCTAVO_DRAIN_TIMEOUT_MS"]) / 1000
    pre_stop_s = int(container()["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > pre_stop_s + drain_s
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container()[probe]["httpGet"] == {"path": "/health", "port": port["name"]}
    liveness, startup = container()["livenessProbe"], container()["startupProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] > drain_s
    start_s = int(re.search(r"--start-period=(\d+)s", lines["HEALTHCHECK"])[1])
    assert startup["periodSeconds"] * startup["failureThreshold"] == start_s
    assert pod["securityContext"]["runAsUser"] == int(lines["USER"].split(":")[0])
    assert pod["securityContext"]["runAsNonRoot"] and container()["securityContext"]["readOnlyRootFilesystem"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert mounts == {"models": "/models", "cache": image["XDG_CACHE_HOME"] + "/octavo"}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    claims = {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
    assert claims == {claim["metadata"]["name"] for claim in of_kind("PersistentVolumeClaim")}
    assert container()["args"][0].startswith(mounts["models"] + "/")
    # A Service named octavo would otherwise set OCTAVO_PORT in the pod.
    assert pod["enableServiceLinks"] is False


def test_selectors_and_ports_meet():
    template = deployment()["spec"]["template"]["metadata"]
    labels, annotations = template["labels"], template["annotations"]
    port, service, monitor = container()["ports"][0], of_kind("Service")[0]["spec"], of_kind("PodMonitor")[0]["spec"]
    assert deployment()["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert service["selector"].items() <= labels.items() and service["ports"][0]["targetPort"] == port["name"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    endpoint = monitor["podMetricsEndpoints"][0]
    assert (endpoint["port"], endpoint["path"]) == (port["name"], annotations["prometheus.io/path"])
    assert annotations["prometheus.io/port"] == str(port["containerPort"])
    served = (ROOT / "server/api.c").read_text()
    assert f'.path = "{endpoint["path"]}"' in served and '.path = "/health"' in served
