"""Stops jobs with a session of keystoneauth1.

Reads one JSON object a line and answers each with one line of JSON.  The
first has auth_url, username, password, user_domain_name, project_id and ca
(a file); its answer is the session's token.  Each of the others is a stop:
path, endpoint (or none: that of service type "cdm" in Keystone's catalog);
with "revoke" true the session's own token is ended at Keystone before it.
"""

import json
import sys

from keystoneauth1 import session
from keystoneauth1.exceptions import http
from keystoneauth1.identity import v3


def open_session(task):
    auth = v3.Password(
        auth_url=task['auth_url'], username=task['username'],
        password=task['password'], user_domain_name=task['user_domain_name'],
        project_id=task['project_id'])

    return session.Session(auth=auth, verify=task['ca'])


def revoke(client, auth_url):
    token = client.get_token()
    client.delete(auth_url + '/auth/tokens',
                  headers={'X-Subject-Token': token})


def stop(client, task):
    where = {'endpoint_override': task.get('endpoint')}

    if where['endpoint_override'] is None:
        where = {'endpoint_filter': {'service_type': 'cdm',
                                     'interface': 'public'}}

    try:
        response = client.put(task['path'], **where)

    except http.HttpError as error:
        return {'exception': type(error).__name__,
                'status': error.http_status,
                'body': error.response.json(),
                'id': error.response.headers.get('X-Request-Id')}

    return {'status': response.status_code, 'body': response.json(),
            'id': response.headers.get('X-Request-Id')}


def main():
    client = None

    for line in sys.stdin:
        task = json.loads(line)

        if client is None:
            auth_url = task['auth_url']
            client = open_session(task)
            answer = {}

        else:
            if task.get('revoke'):
                revoke(client, auth_url)
            answer = stop(client, task)

        answer['token'] = client.get_token()
        print(json.dumps(answer), flush=True)


main()
