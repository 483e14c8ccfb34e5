"""The fields of Kubernetes and KubeRay that our manifests may use, as JSON Schema.

Of the types of k8s.io/api (core, apps, networking; v1) and of KubeRay 1.6 (apis/ray/v1): every
object is closed, so a field that is misspelt or in the wrong place is refused, as the server does.
Fields that nobody uses here are left out: add them when you do.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
TEXTS: Schema = {"type": "array", "items": TEXT}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NAME: Schema = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
QUANTITY: Schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGT]i?)?$"}
# Label and environment values are text: `true` and `1` without quotes are refused.
MAP: Schema = {"type": "object", "additionalProperties": TEXT}
QUANTITIES: Schema = {"type": "object", "additionalProperties": QUANTITY}
PORT: Schema = {"type": ["integer", "string"]}


def obj(*required: str, **fields: Schema) -> Schema:
    """A closed object; ``required`` names those of its fields that must be there."""
    assert set(required) <= set(fields)
    return {
        "type": "object",
        "properties": fields,
        "required": list(required),
        "additionalProperties": False,
    }


def many(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


def one_of(*values: str) -> Schema:
    return {"enum": list(values)}


META = obj("name", name=NAME, labels=MAP, annotations=MAP)
POD_META = obj(labels=MAP, annotations=MAP)
KEY = obj("name", "key", name=NAME, key=TEXT)
ENV = many(obj("name", name=TEXT, value=TEXT, valueFrom=obj("secretKeyRef", secretKeyRef=KEY)))
EXPRESSION = obj(
    *("key", "operator"),
    key=TEXT,
    operator=one_of("In", "NotIn", "Exists", "DoesNotExist"),
    values=TEXTS,
)
SELECTOR = obj(matchLabels=MAP, matchExpressions=many(EXPRESSION))
TERM = obj("matchExpressions", matchExpressions=many(EXPRESSION))
WEIGHTED = obj("weight", "preference", weight=COUNT, preference=TERM)
AFFINITY = obj(
    nodeAffinity=obj(
        requiredDuringSchedulingIgnoredDuringExecution=obj(
            "nodeSelectorTerms", nodeSelectorTerms=many(TERM)
        ),
        preferredDuringSchedulingIgnoredDuringExecution=many(WEIGHTED),
    )
)
PROBE = obj(
    exec=obj("command", command=TEXTS),
    httpGet=obj("port", path=TEXT, port=PORT),
    tcpSocket=obj("port", port=PORT),
    initialDelaySeconds=COUNT,
    periodSeconds=COUNT,
    timeoutSeconds=COUNT,
    failureThreshold=COUNT,
)
CONTAINER = obj(
    *("name", "image", "resources"),
    name=NAME,
    image=TEXT,
    imagePullPolicy=one_of("Always", "IfNotPresent", "Never"),
    command=TEXTS,
    args=TEXTS,
    env=ENV,
    ports=many(obj("containerPort", name=NAME, containerPort=COUNT)),
    readinessProbe=PROBE,
    livenessProbe=PROBE,
    resources=obj("requests", requests=QUANTITIES, limits=QUANTITIES),
    volumeMounts=many(obj("name", "mountPath", name=NAME, mountPath=TEXT, readOnly=FLAG)),
)
TOLERATION = obj(
    key=TEXT,
    operator=one_of("Exists", "Equal"),
    value=TEXT,
    effect=one_of("NoSchedule"),
)
POD = obj(
    "containers",
    containers=many(CONTAINER),
    volumes=many(obj("name", name=NAME, persistentVolumeClaim=obj("claimName", claimName=NAME))),
    securityContext=obj(runAsUser=COUNT, runAsNonRoot=FLAG, fsGroup=COUNT),
    affinity=AFFINITY,
    tolerations=many(TOLERATION),
    nodeSelector=MAP,
    priorityClassName=NAME,
    enableServiceLinks=FLAG,
    terminationGracePeriodSeconds=COUNT,
)
TEMPLATE = obj("spec", metadata=POD_META, spec=POD)
CLAIM = obj(
    *("accessModes", "resources"),
    accessModes=many(one_of("ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod")),
    storageClassName=NAME,
    resources=obj("requests", requests=QUANTITIES),
)
WORKLOAD = {"replicas": COUNT, "selector": SELECTOR, "template": TEMPLATE}
HEAD = obj("rayStartParams", "template", rayStartParams=MAP, template=TEMPLATE)
WORKERS = obj(
    *("groupName", "rayStartParams", "template", "minReplicas", "maxReplicas"),
    groupName=NAME,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams=MAP,
    template=TEMPLATE,
)
CLUSTER = obj(
    *("headGroupSpec", "rayVersion"),
    rayVersion=TEXT,
    authOptions=obj(mode=one_of("token", "disabled"), secretName=NAME),
    enableInTreeAutoscaling=FLAG,
    gcsFaultToleranceOptions=obj(
        "redisAddress",
        redisAddress=TEXT,
        redisPassword=obj("valueFrom", valueFrom=obj("secretKeyRef", secretKeyRef=KEY)),
        externalStorageNamespace=TEXT,
    ),
    headGroupSpec=HEAD,
    workerGroupSpecs=many(WORKERS),
)
SPECS = {
    ("v1", "Service"): obj(
        "ports",
        clusterIP=one_of("None"),
        selector=MAP,
        ports=many(obj("port", name=NAME, port=COUNT, targetPort=PORT)),
    ),
    ("v1", "PersistentVolumeClaim"): CLAIM,
    ("apps/v1", "Deployment"): obj(
        "selector", "template", **WORKLOAD, strategy=obj("type", type=one_of("Recreate"))
    ),
    ("apps/v1", "StatefulSet"): obj(
        *("selector", "template", "serviceName"),
        **WORKLOAD,
        serviceName=NAME,
        volumeClaimTemplates=many(obj("metadata", "spec", metadata=META, spec=CLAIM)),
    ),
    ("networking.k8s.io/v1", "NetworkPolicy"): obj(
        "podSelector",
        podSelector=SELECTOR,
        policyTypes=many(one_of("Ingress")),
        ingress=many(obj(**{"from": many(obj(podSelector=SELECTOR))})),
    ),
    ("ray.io/v1", "RayJob"): obj(
        *("entrypoint", "rayClusterSpec"),
        entrypoint=TEXT,
        shutdownAfterJobFinishes=FLAG,
        ttlSecondsAfterFinished=COUNT,
        backoffLimit=COUNT,
        activeDeadlineSeconds=COUNT,
        suspend=FLAG,
        submissionMode=one_of("K8sJobMode", "HTTPMode", "SidecarMode"),
        rayClusterSpec=CLUSTER,
    ),
}


def schema_of(manifest: Schema) -> Schema:
    """The schema of a manifest. KeyError if there is none of its kind."""
    spec = SPECS[manifest["apiVersion"], manifest["kind"]]
    fields = {"apiVersion": TEXT, "kind": TEXT, "metadata": META, "spec": spec}
    return obj(*fields, **fields)
