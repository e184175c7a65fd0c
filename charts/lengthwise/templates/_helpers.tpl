{{- define "lengthwise.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* The prefix of all names; 40 characters at most, to leave room for `-operator` and a pod's hash. */}}
{{- define "lengthwise.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "lengthwise.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "lengthwise.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* (list . "queue"): labels that never change during the life of a component. */}}
{{- define "lengthwise.selectorLabels" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ include "lengthwise.name" $ }}
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* (list . "queue"): all labels of a component. */}}
{{- define "lengthwise.labels" -}}
{{- $ := index . 0 -}}
{{ include "lengthwise.selectorLabels" . }}
app.kubernetes.io/part-of: lengthwise
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" }}
{{- with $.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "lengthwise.annotations" -}}
{{- with .Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* (list . .Values.queue.image): the full name of a Lengthwise image. */}}
{{- define "lengthwise.image" -}}
{{- $ := index . 0 -}}
{{- $image := index . 1 -}}
{{- with $.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ $image.repository }}:{{ $image.tag | default $.Values.image.tag | default $.Chart.AppVersion }}
{{- end -}}

{{- define "lengthwise.redisSecret" -}}
{{- .Values.redis.existingSecret | default .Values.valkey.existingSecret | default (printf "%s-redis" (include "lengthwise.fullname" .)) -}}
{{- end -}}

{{- define "lengthwise.redisUrlKey" -}}
{{- if .Values.redis.existingSecret -}}{{ .Values.redis.urlKey }}{{- else -}}url{{- end -}}
{{- end -}}

{{/* Refuse settings of Redis that would fail only later. */}}
{{- define "lengthwise.redisChecks" -}}
{{- $redis := .Values.redis -}}
{{- if and .Values.valkey.enabled (or $redis.tls.existingSecret $redis.passwordKey $redis.username $redis.sentinel.passwordKey $redis.sentinel.username) -}}
{{- fail "redis.username, redis.passwordKey, redis.sentinel and redis.tls apply to your own Redis: set valkey.enabled to false and redis.existingSecret" -}}
{{- end -}}
{{- if ne (empty $redis.tls.certKey) (empty $redis.tls.keyKey) -}}
{{- fail "redis.tls.certKey and redis.tls.keyKey go together: set both, or neither" -}}
{{- end -}}
{{- if and $redis.tls.certKey (not $redis.tls.existingSecret) -}}
{{- fail "redis.tls.certKey names a key of redis.tls.existingSecret, which is not set" -}}
{{- end -}}
{{- if and .Values.valkey.enabled (eq $redis.durability.mode "replica") -}}
{{- fail "redis.durability.mode=replica needs a Redis with replicas, and this chart's Valkey has none: every request would get a 503" -}}
{{- end -}}
{{- if and .Values.valkey.enabled (eq $redis.durability.mode "always") (or (ne .Values.valkey.appendfsync "always") (not .Values.valkey.persistence.enabled)) -}}
{{- fail "redis.durability.mode=always needs valkey.appendfsync=always and valkey.persistence.enabled" -}}
{{- end -}}
{{- end -}}

{{/* How the queue service reaches Redis; the operator gives the workers the same settings. */}}
{{- define "lengthwise.redisEnv" -}}
{{- $redis := .Values.redis -}}
- name: LENGTHWISE_QUEUE_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "lengthwise.redisSecret" . }}
      key: {{ include "lengthwise.redisUrlKey" . }}
{{- $values := dict
  "REDIS_USERNAME" $redis.username
  "REDIS_PASSWORD_FILE" (ternary (printf "/etc/lengthwise/redis/%s" $redis.passwordKey) "" (not (empty $redis.passwordKey)))
  "REDIS_SENTINEL_USERNAME" $redis.sentinel.username
  "REDIS_SENTINEL_PASSWORD_FILE" (ternary (printf "/etc/lengthwise/redis/%s" $redis.sentinel.passwordKey) "" (not (empty $redis.sentinel.passwordKey)))
-}}
{{- if $redis.tls.existingSecret }}
{{- range $name, $key := dict "CA" $redis.tls.caKey "CERT" $redis.tls.certKey "KEY" $redis.tls.keyKey }}
{{- if $key }}{{ $_ := set $values (printf "REDIS_TLS_%s_FILE" $name) (printf "/etc/lengthwise/redis-tls/%s" $key) }}{{ end }}
{{- end }}
{{- end }}
{{- if ne $redis.tls.verify "full" }}{{ $_ := set $values "REDIS_TLS_VERIFY" $redis.tls.verify }}{{ end }}
{{- if ne $redis.durability.mode "async" }}
{{- $_ := set $values "DURABILITY" $redis.durability.mode }}
{{- $_ := set $values "DURABILITY_REPLICAS" (print $redis.durability.replicas) }}
{{- $_ := set $values "DURABILITY_TIMEOUT_MS" (print $redis.durability.timeoutMs) }}
{{- end }}
{{- range $name, $value := $values }}
{{- if $value }}
- name: LENGTHWISE_QUEUE_{{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "lengthwise.redisMounts" -}}
{{- with include "lengthwise.redisVolumes" . | fromYamlArray }}
{{- range . }}
- {name: {{ .name }}, mountPath: /etc/lengthwise/{{ .name }}, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{/* Secrets that are mounted as files, each with only the named keys. */}}
{{- define "lengthwise.redisVolumes" -}}
{{- $redis := .Values.redis -}}
{{- with list $redis.passwordKey $redis.sentinel.passwordKey | compact | uniq }}
- name: redis
  secret:
    secretName: {{ include "lengthwise.redisSecret" $ }}
    items:
      {{- range . }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end }}
{{- if $redis.tls.existingSecret }}
{{- with list $redis.tls.caKey $redis.tls.certKey $redis.tls.keyKey | compact | uniq }}
- name: redis-tls
  secret:
    secretName: {{ $redis.tls.existingSecret }}
    items:
      {{- range . }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "lengthwise.serviceAccount" -}}
{{- if .Values.operator.serviceAccount.create -}}
{{- .Values.operator.serviceAccount.name | default (printf "%s-operator" (include "lengthwise.fullname" .)) -}}
{{- else -}}
{{- required "operator.serviceAccount.name is needed when operator.serviceAccount.create is false" .Values.operator.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The restricted profile of the Pod Security Standards, for the pods of the chart. */}}
{{- define "lengthwise.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "lengthwise.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* .Values.queue and others: the settings about scheduling a pod. */}}
{{- define "lengthwise.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "lengthwise.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* policy/v1 since Kubernetes 1.21. */}}
{{- define "lengthwise.pdbApi" -}}
{{- if semverCompare ">=1.21-0" .Capabilities.KubeVersion.Version -}}policy/v1{{- else -}}policy/v1beta1{{- end -}}
{{- end -}}

{{/* (list . crd): "yes" if a definition in the cluster belongs to this release. */}}
{{- define "lengthwise.ownsCrd" -}}
{{- $ := index . 0 -}}
{{- $annotations := (index . 1).metadata.annotations | default dict -}}
{{- if and (eq (get $annotations "meta.helm.sh/release-name") $.Release.Name) (eq (get $annotations "meta.helm.sh/release-namespace") $.Release.Namespace) -}}
yes
{{- end -}}
{{- end -}}
