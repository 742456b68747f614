"""Makes a pool from a gallery image version by the Python SDK of Debian 12.

The same calls as the Python program of Microsoft's "Use the Shared Image Gallery
to create a custom image pool", written anew, for clones that do not have the
document beside them. Arguments: account, account URL, tenant, client id, secret,
image version id, node agent SKU, pool id.
"""
import sys

from azure.batch import BatchServiceClient, models
from azure.common.credentials import ServicePrincipalCredentials


def main(account, url, tenant, client_id, secret, version, agent_sku, pool_id):
    login = ServicePrincipalCredentials(
        client_id=client_id, secret=secret, tenant=tenant,
        resource="https://batch.core.windows.net/")
    service = BatchServiceClient(login, url)
    elevated = models.UserIdentity(auto_user=models.AutoUserSpecification(elevation_level="admin"))
    service.pool.add(models.PoolAddParameter(
        id=pool_id,
        vm_size="STANDARD_D2_V3",
        target_dedicated_nodes=1,
        start_task=models.StartTask(
            command_line="printenv AZ_BATCH_NODE_STARTUP_DIR", user_identity=elevated, wait_for_success=True),
        virtual_machine_configuration=models.VirtualMachineConfiguration(
            image_reference=models.ImageReference(virtual_machine_image_id=version),
            node_agent_sku_id=agent_sku)))
    pool = service.pool.get(pool_id)
    assert pool.state == models.PoolState.active, pool.state
    assert pool.target_dedicated_nodes == 1, pool.target_dedicated_nodes
    assert account in pool.url, pool.url


if __name__ == "__main__":
    main(*sys.argv[1:])
