"""Stands in for the SDK repository's test tools, which no package index has.

The suites of azure-batch import this package. This one runs live only: the
resources that a test asks for are made in the server that `millpond exec` leads
to, and nothing is recorded, played back or sanitized. Names follow the tools'
interface, as the suites use it.
"""

import functools
import hashlib
import inspect
import os
import random
import uuid
from collections import namedtuple

import azure.identity
import pytest
import requests

from .resource_testcase import RESOURCE_GROUP_PARAM

ARM = "https://management.azure.com"

FakeResource = namedtuple("FakeResource", ["name", "id"])


class AzureTestError(Exception):
    """A resource that a test needs could not be made."""


def _credential():
    return azure.identity.ClientSecretCredential(
        os.environ["AZURE_TENANT_ID"], os.environ["AZURE_CLIENT_ID"], os.environ["AZURE_CLIENT_SECRET"]
    )


def _arm(method, path, version, body=None):
    token = _credential().get_token(ARM + "/.default").token
    answer = requests.request(
        method,
        ARM + path,
        params={"api-version": version},
        json=body,
        headers={"Authorization": "Bearer " + token},
        timeout=60,
    )
    if answer.status_code >= 300 and not (method == "DELETE" and answer.status_code == 404):
        raise AzureTestError("%s %s: %d %s" % (method, path, answer.status_code, answer.text))
    return answer


def _group_path(name):
    return "/subscriptions/%s/resourceGroups/%s" % (os.environ["AZURE_SUBSCRIPTION_ID"], name)


class _Settings:
    def get(self, name, default=None):
        return os.environ.get(name, default)

    def __getattr__(self, name):
        try:
            return os.environ["AZURE_" + name]
        except KeyError:
            raise AttributeError(name)


class AzureRecordedTestCase:
    """What the suites call on self."""

    settings = _Settings()
    is_live = True
    in_recording = False

    @property
    def qualified_test_name(self):
        return os.environ.get("PYTEST_CURRENT_TEST", "test").split("::")[-1]

    def get_resource_name(self, prefix):
        digest = hashlib.sha1(self.qualified_test_name.encode()).hexdigest()
        return prefix + digest[:8]

    def create_random_name(self, prefix):
        return prefix + uuid.uuid4().hex[:8]

    def get_credential(self, client_class, **kwargs):
        if ".aio" in client_class.__module__ or kwargs.get("is_async"):
            import azure.identity.aio

            return azure.identity.aio.ClientSecretCredential(
                os.environ["AZURE_TENANT_ID"], os.environ["AZURE_CLIENT_ID"], os.environ["AZURE_CLIENT_SECRET"]
            )
        return _credential()


class AzureMgmtRecordedTestCase(AzureRecordedTestCase):
    def create_mgmt_client(self, client_class, **kwargs):
        return client_class(_credential(), os.environ["AZURE_SUBSCRIPTION_ID"], **kwargs)


def trim_kwargs_from_test_function(function, kwargs):
    """Takes out of kwargs what function does not accept."""
    target = inspect.unwrap(function)
    parameters = inspect.signature(target).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    for name in [n for n in kwargs if n not in parameters]:
        del kwargs[name]


class _Preparer:
    """A decorator that makes a resource for the time of a test."""

    def __init__(self, name_prefix="", random_name_length=24, **_):
        self.name_prefix = name_prefix
        self.random_name_length = random_name_length
        self.is_live = True
        self.live_test = True
        self.test_class_instance = None
        self.resource_moniker = None
        self.moniker = name_prefix

    def _name(self):
        room = self.random_name_length - len(self.name_prefix)
        letters = random.SystemRandom()
        return self.name_prefix + "".join(letters.choice("0123456789abcdef") for _ in range(min(room, 12)))

    def create_mgmt_client(self, client_class, **kwargs):
        return client_class(_credential(), os.environ["AZURE_SUBSCRIPTION_ID"], **kwargs)

    def create_resource(self, name, **kwargs):
        raise NotImplementedError

    def remove_resource(self, name, **kwargs):
        pass

    def __call__(self, function):
        def begin(instance, kwargs):
            self.test_class_instance = instance
            name = self._name()
            kwargs.update(self.create_resource(name, **kwargs))
            trimmed = dict(kwargs)
            trim_kwargs_from_test_function(function, trimmed)
            return name, trimmed

        if inspect.iscoroutinefunction(inspect.unwrap(function)) or inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def wrapper(instance, **kwargs):
                name, trimmed = begin(instance, kwargs)
                try:
                    return await function(instance, **trimmed)
                finally:
                    self.remove_resource(name, **kwargs)

        else:

            @functools.wraps(function)
            def wrapper(instance, **kwargs):
                name, trimmed = begin(instance, kwargs)
                try:
                    return function(instance, **trimmed)
                finally:
                    self.remove_resource(name, **kwargs)

        # A test of these suites takes what preparers make as keywords; pytest is
        # not to look for fixtures of those names.
        signature = inspect.signature(function)
        keep = [p for p in signature.parameters.values() if p.name in ("self", "BatchClient")]
        wrapper.__signature__ = signature.replace(parameters=keep)
        return wrapper


class AzureMgmtPreparer(_Preparer):
    def __init__(
        self,
        name_prefix,
        random_name_length,
        disable_recording=True,
        playback_fake_resource=None,
        client_kwargs=None,
        random_name_enabled=False,
    ):
        super().__init__(name_prefix, random_name_length)
        self.client = None
        self.resource = None


class ResourceGroupPreparer(_Preparer):
    def __init__(self, name_prefix="rgname", location="westus", parameter_name=RESOURCE_GROUP_PARAM, **_):
        super().__init__(name_prefix, 60)
        self.location = location
        self.parameter_name = parameter_name

    def create_resource(self, name, **kwargs):
        _arm("PUT", _group_path(name), "2022-09-01", {"location": self.location})
        return {self.parameter_name: FakeResource(name=name, id=_group_path(name))}

    def remove_resource(self, name, **kwargs):
        _arm("DELETE", _group_path(name), "2022-09-01")


class CachedResourceGroupPreparer(ResourceGroupPreparer):
    pass


class StorageAccountPreparer(_Preparer):
    def __init__(self, name_prefix="", location="westus", parameter_name="storage_account", **_):
        super().__init__(name_prefix, 24)
        self.location = location
        self.parameter_name = parameter_name

    def create_resource(self, name, **kwargs):
        group = kwargs[RESOURCE_GROUP_PARAM]
        path = "%s/providers/Microsoft.Storage/storageAccounts/%s" % (_group_path(group.name), name)
        _arm(
            "PUT",
            path,
            "2023-01-01",
            {"location": self.location, "kind": "StorageV2", "sku": {"name": "Standard_LRS"}, "properties": {}},
        )
        return {self.parameter_name: FakeResource(name=name, id=path)}


class EnvironmentVariableLoader(_Preparer):
    """Gives a test the values that the environment has for it."""

    def __init__(self, directory, **values):
        super().__init__()
        self.values = values

    def create_resource(self, name, **kwargs):
        missing = [k for k in self.values if k.upper() not in os.environ]
        if missing:
            pytest.skip("needs resources of Azure that are not here: " + ", ".join(sorted(missing)))
        return {k: os.environ[k.upper()] for k in self.values}


def recorded_by_proxy(function):
    return function


def _nothing(*_, **__):
    return None


add_general_regex_sanitizer = set_custom_default_matcher = remove_batch_sanitizers = _nothing


@pytest.fixture(scope="session")
def test_proxy():
    return None
