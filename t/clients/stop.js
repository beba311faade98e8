// Stops jobs by Huawei's SDK core. Reads one JSON object: endpoint (one or a
// list), ak, sk, securityToken, projectId, userAgent, ca, cert, key (files),
// and stops, a list of clusterId, jobName, headers. Writes a line "RESULT"
// with a JSON list: of each stop the response, or the exception.

'use strict';

const fs = require('fs');
const https = require('https');

const { BasicCredentials } =
    require('@huaweicloud/huaweicloud-sdk-core/auth/BasicCredentials');
const { ServiceResponseException } = require(
    '@huaweicloud/huaweicloud-sdk-core/exception/ServiceResponseException');

const { CdmClient } = require('./cdm');

function client(task) {
    const credentials = new BasicCredentials()
        .withAk(task.ak).withSk(task.sk).withProjectId(task.projectId);

    if (task.securityToken) {
        credentials.withSecurityToken(task.securityToken);
    }

    const file = name => task[name] ? fs.readFileSync(task[name]) : undefined;

    return CdmClient.newBuilder()
        .withCredential(credentials)
        .withEndpoint(task.endpoint)
        .withOptions({
            customUserAgent: task.userAgent,
            axiosRequestConfig: {
                timeout: task.timeout,
                httpsAgent: new https.Agent({
                    ca: file('ca'), cert: file('cert'), key: file('key'),
                }),
            },
        })
        .build();
}

async function stop(cdm, request) {
    try {
        return { response: await cdm.stopJob(request) };

    } catch (e) {
        return {
            exception: e.constructor.name,
            isServiceResponse: e instanceof ServiceResponseException,
            httpStatusCode: e.httpStatusCode,
            errorCode: e.errorCode,
            errorMsg: e.errorMsg,
            requestId: e.requestId,
        };
    }
}

async function main() {
    const task = JSON.parse(fs.readFileSync(0, 'utf8'));
    const cdm = client(task);
    const results = [];

    for (const request of task.stops) {
        results.push(await stop(cdm, request));
    }

    process.stdout.write('\nRESULT ' + JSON.stringify(results) + '\n');
}

main();
