/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    static const char request[] = "{\"filter\": {\"priority\": [\"ERROR\"]}}\n";
    const char *path = argc > 1 ? argv[1] : "/run/notif-relayd/notifications.sock";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int relay = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    if (relay < 0 || connect(relay, (struct sockaddr *)&address, sizeof address) < 0 ||
        write(relay, request, sizeof request - 1) < 0) {
        perror(path);
        return 1;
    }
    FILE *records = fdopen(relay, "r");
    char *record = NULL;
    size_t size = 0;
    while (getline(&record, &size, records) > 0)
        if (record[0] == '{' && strstr(record, "\"notif_relayd.subscribed\"") == NULL) {
            fputs(record, stdout); /* or parse it with a JSON library */
            fflush(stdout);
        }
    return 0; /* the relay has closed the connection: reconnect to continue */
}
