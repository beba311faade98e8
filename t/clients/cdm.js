// A client of CDM on Huawei's SDK core, in the manner of those that Huawei
// generates and of which the one for CDM is not on npm: parameters into the
// path, no body, the rest is HcClient's.

'use strict';

const { ClientBuilder } =
    require('@huaweicloud/huaweicloud-sdk-core/ClientBuilder');

class CdmClient {

    static newBuilder() {
        return new ClientBuilder(hcClient => new CdmClient(hcClient));
    }

    constructor(hcClient) {
        this.hcClient = hcClient;
    }

    getPath() {
        return __dirname;
    }

    // clusterId, jobName; headers: those that the caller adds to the SDK's.

    stopJob(request) {
        return this.hcClient.sendRequest({
            method: 'PUT',
            url: '/v1.1/{project_id}/clusters/{cluster_id}/cdm/job/{job_name}'
                + '/stop',
            contentType: 'application/json',
            queryParams: {},
            pathParams: {
                cluster_id: request.clusterId,
                job_name: request.jobName,
            },
            headers: { ...request.headers },
            responseHeaders: [''],
        });
    }
}

module.exports = { CdmClient };
